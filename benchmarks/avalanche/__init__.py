"""Exchange with Avalanche: streams of this project as its benchmarks, and its benchmarks as ours."""
