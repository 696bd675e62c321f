"""Error of methods; the command line prints it as one sentence."""


class MethodError(ValueError):
    """A method, backbone or weights file is not usable as asked; the message names the value and the remedy."""
