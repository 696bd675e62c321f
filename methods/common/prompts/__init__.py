"""Prompts that several methods use: pools, experts, routing, and attention with them."""
