"""TODO methods/common/alignment."""
