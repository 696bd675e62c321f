"""Counted parameters and operations, and the estimates of plans that use them."""
