"""TODO harness/conformance."""
