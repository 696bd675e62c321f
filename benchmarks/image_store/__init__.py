"""Caches of images on disk, and the arrays that read from them."""
