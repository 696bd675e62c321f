"""Results of a hyper-parameter search, stored as an Optuna study in a journal file."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smope_bench.benchmarks.disk import refusal, remedy
from smope_bench.benchmarks.durable import make_folder, sync_folder
from smope_bench.harness.errors import UserError
from smope_bench.harness.run_spec import canonical_json

Candidate = Mapping[str, Any]
"""Searched settings with their values."""

DIVERGED, REFUSED = "RunDivergedError", "UserError"
JOURNAL = "journal.log"


@dataclass(frozen=True)
class TrialResult:
    """Scores of a trial in percent on held-out images and its seconds, or its error and the error's kind.

    ``caa`` is None for methods that train on all tasks at once.
    """

    faa: float | None = None
    caa: float | None = None
    seconds: float | None = None
    error: str | None = None
    kind: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether repeating it gives the same result: a score, a diverged loss, or refused values."""
        return self.faa is not None or self.kind in (DIVERGED, REFUSED)


def candidate_key(candidate: Candidate) -> str:
    """A text that identifies a candidate."""
    return canonical_json(dict(candidate))


def grid_order(space: Mapping[str, tuple[Any, ...]], seed: int, trials: int | None) -> list[Candidate]:
    """All combinations of a grid in an order drawn by ``seed``, or the first ``trials`` of them.

    Optuna's own grid sampler draws a new order when a study is resumed: a limited search would depend on where it stopped.
    """
    combinations: list[Candidate] = [
        dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
    ]
    random.Random(f"grid {seed}").shuffle(combinations)
    return combinations[:trials]


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """What the disk refuses in this block as one sentence. Raises UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the search cannot be kept in {str(folder)!r} ({refusal(error, folder)}); {remedy(error)} or name another folder"
            " with --results DIR, then the same command goes on from the trials that are there"
        ) from error


@dataclass
class Study:
    """An Optuna study over the values of a grid. ``ask`` serves samplers that learn; a grid search only adds results."""

    folder: Path
    space: Mapping[str, tuple[Any, ...]]
    seed: int
    learns: bool
    _open: dict[str, Any] = field(default_factory=dict)
    """Trials that ``ask`` has returned and that have no result yet, by ``candidate_key``."""

    def __post_init__(self) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        file = self.folder / JOURNAL
        make_folder(self.folder)
        _drop_incomplete_line(file)
        self._distributions: dict[str, Any] = {
            key: optuna.distributions.CategoricalDistribution([_choice(value) for value in values])
            for key, values in self.space.items()
        }
        try:
            self._study = optuna.create_study(
                study_name=self.folder.name,
                storage=JournalStorage(JournalFileBackend(str(file))),
                direction="maximize",
                load_if_exists=True,
            )
            sync_folder(self.folder)  # the name of the journal; Optuna syncs its lines
            self._end_interrupted()
        except (ValueError, KeyError) as error:
            raise UserError(f"the study {str(file)!r} cannot be read ({error}); move it away to search anew") from error
        if self.learns:
            # A resumed sampler must not repeat its first draws.
            drawn = self.seed + len(self._study.trials)
            self._study.sampler = optuna.samplers.TPESampler(seed=drawn % 2**32)

    def results(self) -> Iterator[tuple[Candidate, TrialResult]]:
        """All finished trials, in order."""
        for trial in self._study.get_trials(deepcopy=False):
            candidate = {key: self._value(key, trial.params[key]) for key in self.space if key in trial.params}
            attributes = trial.user_attrs
            if trial.state.is_finished() and "outcome" in attributes:
                yield candidate, TrialResult(**attributes["outcome"])

    def add(self, candidate: Candidate, result: TrialResult) -> None:
        """Store the result of a trial."""
        from optuna.trial import TrialState, create_trial

        state = TrialState.FAIL if result.faa is None else TrialState.COMPLETE
        open_trial = self._open.pop(candidate_key(candidate), None)
        if open_trial is not None:
            open_trial.set_user_attr("outcome", vars(result))
            self._study.tell(open_trial, result.faa, state)
            return
        trial = create_trial(
            state=state,
            value=result.faa,
            params={key: _choice(value) for key, value in candidate.items()},
            distributions=self._distributions,
            user_attrs={"outcome": vars(result)},
        )
        self._study.add_trial(trial)

    def ask(self) -> Candidate:
        """The sampler's next candidate. It may repeat one that is being computed, which the caller computes once."""
        trial = self._study.ask(self._distributions)
        candidate = {key: self._value(key, trial.params[key]) for key in self.space}
        if candidate_key(candidate) in self._open:
            self._study.tell(trial, state=_failed())
        else:
            self._open[candidate_key(candidate)] = trial
        return candidate

    def _value(self, key: str, choice: Any) -> Any:
        return next(value for value in self.space[key] if _choice(value) == choice)

    def _end_interrupted(self) -> None:
        """Mark trials that an earlier command left unfinished as failed; they are repeated under another number."""
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished():
                self._study.tell(trial.number, state=_failed())


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _choice(value: Any) -> Any:
    """A category for Optuna, which takes scalars: other values become JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else canonical_json(value)


def _drop_incomplete_line(file: Path) -> None:
    """Remove an incomplete last line, left by a killed process: the next line would be appended to it."""
    if not file.is_file():
        return
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as opened:
            opened.truncate(whole)
