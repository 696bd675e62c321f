"""Floors and ceilings: methods that frame the others in a table."""
