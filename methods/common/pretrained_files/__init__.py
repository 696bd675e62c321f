"""Published checkpoint files: addresses, and conversion to timm's tensor names. Runs identify the tensors by their hash."""
