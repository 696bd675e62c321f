"""Figure kinds, each a decorated function, and what they share: style, labels, scatter plots."""
