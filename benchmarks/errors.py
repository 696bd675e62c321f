"""Error of benchmarks; the command line prints it as one sentence."""


class BenchmarkError(ValueError):
    """Data, splits or a benchmark's configuration are not usable; the message names the file or value and the remedy."""
