"""Turns stored records into tables, figures and pages. Nothing here trains, and nothing here imports torch."""

if __name__ != "smope_bench.reports":
    raise ImportError(
        f"{__name__!r} is a folder of smope-bench, not a package of its own: import smope_bench.reports instead."
    )
