"""What is known of methods, benchmarks, backbones, suites, executors and metrics, as plain data for tables and JSON."""
