"""Devices, their memory, and what happens when memory runs out."""
