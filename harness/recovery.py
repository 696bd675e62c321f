"""When a run writes a checkpoint, and when it stops: by time, and on request."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.checkpoint import Checkpoint, Checkpoints
from harness.interruption import ClaimLost, Interrupted, Interruption
from harness.run_log import RunLog


class Keeper:
    """Keeps a run: it saves what it is given, and raises ``Interrupted`` where the run was asked to stop."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        log: RunLog,
        *,
        interruption: Interruption | None = None,
        every_s: float = 300.0,
        may_publish: Callable[[], bool] = lambda: True,
    ) -> None:
        """``every_s``: seconds between two checkpoints inside a task; ``may_publish`` says whether the run is still ours."""
        self._checkpoints = checkpoints
        self._log = log
        self._interruption = interruption or Interruption()
        self._every_s = every_s
        self._may_publish = may_publish
        self._saved = time.monotonic()

    def point(self, task: int, make: Callable[[], Checkpoint], *, patience: float = 1.0) -> float:
        """A place inside ``task`` that a run can go on from: save if it is time or if the run must stop.

        ``patience``: part of the usual time between checkpoints. Returns the seconds it took. Raises Interrupted.
        """
        asked, now = self._interruption.asked(), time.monotonic()
        if not asked and now - self._saved < patience * self._every_s:
            return 0.0
        if self._checkpoints.knows_start(task):
            self.save(make)
        self._saved = time.monotonic()
        self.stop_if_asked()
        return self._saved - now

    def save(self, make: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint. Where there is no room for it the run goes on, and says so."""
        self.require_ours()
        try:
            self._checkpoints.save(make())
        except OSError as error:
            self._log.say("checkpoint_failed", reason=error.strerror or type(error).__name__)
        self._saved = time.monotonic()

    def stop_if_asked(self) -> None:
        """Raise Interrupted where somebody asked to stop."""
        if self._interruption.asked():
            raise Interrupted("the run was asked to stop; the same command goes on from its last checkpoint")

    def require_ours(self) -> None:
        """Raise ClaimLost where another process has taken the run over."""
        if not self._may_publish():
            raise ClaimLost("another process has taken this run over")
