"""From stored images to the network's input."""
