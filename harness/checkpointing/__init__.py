"""TODO harness/checkpointing."""
