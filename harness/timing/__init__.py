"""Interleaved timing, its files and its output; ``claims``: what the commands ``bench`` measure."""
