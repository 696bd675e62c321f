"""The frozen vision transformer, and the adaptations and attention rules through which methods change it."""
