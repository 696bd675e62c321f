"""Pre-training of the backbones that come with the project: their classes, training, and the gates that they must pass."""
