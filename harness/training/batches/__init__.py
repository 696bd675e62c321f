"""What a run trains and is tested on: batches made ahead in threads, and frozen features that are computed once."""
