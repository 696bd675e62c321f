"""Reads a results folder: records, manifests, and the results of suites."""
