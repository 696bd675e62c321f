"""Suites: found by name or file, read from and written to YAML, and the titles of their columns."""
