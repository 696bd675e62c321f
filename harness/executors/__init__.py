"""Executors, the ways to do jobs: each is a decorated function in a module of this room."""
