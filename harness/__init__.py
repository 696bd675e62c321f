"""Runs methods on benchmarks: specs, the engine, records, executors."""

if __name__ != "smope_bench.harness":
    raise ImportError(
        f"{__name__!r} is a folder of smope-bench, not a package of its own: import smope_bench.harness instead."
    )
