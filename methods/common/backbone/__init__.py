"""The frozen vision transformer, its weights, and the attention rules through which prompts enter it."""
