"""TODO harness/maintenance."""
