"""A sample of a package that adds a method and a benchmark by entry points alone."""
