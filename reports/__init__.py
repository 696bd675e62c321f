"""Turns stored records into tables, figures and pages. Nothing here trains, and nothing here imports torch."""

if __name__ != "smope_bench.reports":
    raise ImportError(
        f"{__name__!r} is smope_bench.reports now; plugins write `from smope_bench.api import …`, see docs/add-a-method.md"
    )
