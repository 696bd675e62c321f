"""Runs methods on benchmarks: specs, the engine, records, executors."""

if __name__ != "smope_bench.harness":
    raise ImportError(
        f"{__name__!r} is smope_bench.harness now; plugins write `from smope_bench.api import …`, see docs/add-a-method.md"
    )
