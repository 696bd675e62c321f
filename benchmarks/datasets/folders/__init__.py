"""A user's own pictures: folders of classes and of domains."""
