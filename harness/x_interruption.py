"""How a run is asked to stop, and how it says that it did. Importing this module imports no torch."""

from __future__ import annotations


class Interruption:
    """A request to stop. It is read between two steps, so that the run ends at a point it can go on from.

    ``ask`` may be called by a signal handler or from another thread. It takes no lock: a handler that interrupts another one
    would wait for what only that one can give back.
    """

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Ask the run to finish its step, save and stop."""
        self._asked = True

    def asked(self) -> bool:
        """Whether anybody has asked."""
        return self._asked


class Interrupted(BaseException):  # neither an error, which a failing run would be
    """The run was asked to stop and did; the same command goes on from its last checkpoint."""


class ClaimLost(Interrupted):
    """Another process does this run now: this one must write nothing more for it."""
