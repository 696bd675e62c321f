"""TODO methods/common/backbone."""
