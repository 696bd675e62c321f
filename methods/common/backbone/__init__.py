"""Backbones by name: their weights, architectures and files."""
