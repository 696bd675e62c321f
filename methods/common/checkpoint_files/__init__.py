"""Published checkpoint files: where they are, and their tensors under timm's names. A run knows the tensors by their hash."""
