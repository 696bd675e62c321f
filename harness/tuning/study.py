"""The trials of a hyper-parameter search as an Optuna study in a journal file: what is finished is never computed again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smope_bench.harness.errors import UserError
from smope_bench.harness.run_spec import canonical_json

Candidate = Mapping[str, Any]
"""Searched settings with their values."""

DIVERGED, REFUSED = "RunDivergedError", "UserError"
JOURNAL = "journal.log"


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial: scores in percent on held-out images, or the error that ended it and its kind."""

    faa: float | None = None
    caa: float | None = None
    seconds: float | None = None
    error: str | None = None
    kind: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether doing it again would give the same: a score, a loss that diverged, or values that are refused."""
        return self.faa is not None or self.kind in (DIVERGED, REFUSED)


def candidate_key(candidate: Candidate) -> str:
    """One text a candidate."""
    return canonical_json(dict(candidate))


def grid_order(space: Mapping[str, tuple[Any, ...]], seed: int, trials: int | None) -> list[Candidate]:
    """All combinations of a grid in an order drawn by ``seed``, or the first ``trials`` of them.

    Optuna's own grid sampler draws anew where a study goes on, so that a limited search would depend on where it was stopped.
    """
    combinations: list[Candidate] = [
        dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
    ]
    random.Random(f"grid {seed}").shuffle(combinations)
    return combinations[:trials]


@dataclass
class Study:
    """An Optuna study over a grid's values. ``ask`` is for samplers that learn; a grid only adds what is finished."""

    folder: Path
    space: Mapping[str, tuple[Any, ...]]
    seed: int
    learns: bool
    _asked: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        file = self.folder / JOURNAL
        self.folder.mkdir(parents=True, exist_ok=True)
        _drop_half_a_line(file)
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
            self._end_interrupted()
        except (ValueError, KeyError, OSError) as error:
            raise UserError(f"the study {str(file)!r} cannot be read ({error}); move it away to search anew") from error
        if self.learns:
            # A sampler that goes on must not draw again what it drew first.
            drawn = self.seed + len(self._study.trials)
            self._study.sampler = optuna.samplers.TPESampler(seed=drawn % 2**32)

    def outcomes(self) -> Iterator[tuple[Candidate, TrialResult]]:
        """Every trial that ended, in order."""
        for trial in self._study.get_trials(deepcopy=False):
            candidate = {key: self._value(key, trial.params[key]) for key in self.space if key in trial.params}
            attributes = trial.user_attrs
            if trial.state.is_finished() and "outcome" in attributes:
                yield candidate, TrialResult(**attributes["outcome"])

    def add(self, candidate: Candidate, outcome: TrialResult) -> None:
        """Keep a trial that ended; one that was asked for is told."""
        from optuna.trial import TrialState, create_trial

        state = TrialState.FAIL if outcome.faa is None else TrialState.COMPLETE
        asked = self._asked.pop(candidate_key(candidate), None)
        if asked is not None:
            asked.set_user_attr("outcome", vars(outcome))
            self._study.tell(asked, outcome.faa, state)
            return
        trial = create_trial(
            state=state,
            value=outcome.faa,
            params={key: _choice(value) for key, value in candidate.items()},
            distributions=self._distributions,
            user_attrs={"outcome": vars(outcome)},
        )
        self._study.add_trial(trial)

    def ask(self) -> Candidate:
        """What the sampler wants to try next. A candidate that is being tried already may come again: it is tried once."""
        trial = self._study.ask(self._distributions)
        candidate = {key: self._value(key, trial.params[key]) for key in self.space}
        if candidate_key(candidate) in self._asked:
            self._study.tell(trial, state=_failed())
        else:
            self._asked[candidate_key(candidate)] = trial
        return candidate

    def _value(self, key: str, choice: Any) -> Any:
        return next(value for value in self.space[key] if _choice(value) == choice)

    def _end_interrupted(self) -> None:
        """Trials that an earlier command asked for and never told: they are done again under another number."""
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished():
                self._study.tell(trial.number, state=_failed())


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _choice(value: Any) -> Any:
    """Optuna's categories are scalars; what is not goes as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else canonical_json(value)


def _drop_half_a_line(file: Path) -> None:
    """Where a process was killed as it wrote, the journal ends within a line, and another would be glued to it."""
    if not file.is_file():
        return
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as opened:
            opened.truncate(whole)
