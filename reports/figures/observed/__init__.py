"""Figures of what runs observed beside accuracies: the use, scores and keys of experts, and losses through training."""
