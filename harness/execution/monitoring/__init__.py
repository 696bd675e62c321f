"""What a launch shows and passes on: progress, displays, the state of runs, trackers."""
