"""TODO methods/common/prompts."""
