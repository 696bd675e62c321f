"""Prints, sends the terminal a command, and leaves, when it is imported."""

import sys

print("a word on standard output that no list of JSON survives")
sys.exit("\x1b[31mno [bold]licence[/] found")
