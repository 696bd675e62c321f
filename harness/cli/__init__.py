"""The command line: options, and how commands are found; ``commands`` has them."""
