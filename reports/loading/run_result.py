"""One stored result, checked and typed, with its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from smope_bench.harness.metrics import METRICS, Metric, average_accuracies
from smope_bench.harness.provenance import with_sources
from smope_bench.harness.records.store import Fault
from smope_bench.harness.registry.metrics import values_of
from smope_bench.harness.run_spec import canonical_json, run_id_of_text

Kind = Fault | Literal["unusable"]
# Strict: a text or a boolean is not a measurement, although pydantic would convert it.
Percent = Annotated[float, Field(ge=0, le=100, strict=True)]
# Bounds beyond any machine keep sums finite.
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Mebibytes = Annotated[float, Field(ge=0, le=1e12)]


@dataclass(frozen=True)
class LeftOut:
    """A record that cannot be used, with the reason; kind ``unusable``: its values cannot have been measured."""

    run_id: str
    reason: str
    kind: Kind


class _Part(BaseModel):
    # Later schemas may add fields.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class TaskTiming(_Part):
    """Wall time of one task, in seconds."""

    task: int
    train_s: Seconds | None = None
    end_s: Seconds | None = None
    evaluate_s: Seconds | None = None


class Timings(_Part):
    """Wall time of a run, in seconds."""

    total_s: Seconds | None = None
    tasks: list[TaskTiming] = Field(default_factory=list)

    @property
    def train_s(self) -> float | None:
        """Seconds spent on training and on the ends of tasks; ``None`` where they were not measured."""
        parts = [value for task in self.tasks for value in (task.train_s, task.end_s) if value is not None]
        return sum(parts) if parts else None


class Costs(_Part):
    """Learnable and frozen parameters, memory in MiB, and images processed.

    ``memory_increase_mib``: the peak less what was in use when training began; None in older records. ``peak_memory_mb``: the
    whole peak, on a CPU that of the process, which depends on what the process did before the run.
    """

    learnable_parameters: Count | None = None
    backbone_parameters: Count | None = None
    peak_memory_mb: Mebibytes | None = None
    memory_increase_mib: Mebibytes | None = None
    train_images: Count | None = None
    test_images: Count | None = None


class Flags(_Part):
    """Properties that limit a comparison with other runs."""

    leaking: bool = False
    tiny: bool = False
    random_backbone: bool = False
    unverified_weights: bool = False
    device_changed: bool = False
    """The run was continued on another type of device than the one that began it."""
    exemplars: Count = 0
    """Training images of earlier tasks that the method keeps at most."""


class RunResult(_Part):
    """A result of one run; ``accuracy_matrix`` is (tasks, tasks) in percent, ``None`` where not measured."""

    run_id: str
    spec: dict[str, Any]
    accuracy_matrix: list[list[Percent | None]] = Field(min_length=1)
    test_counts: list[Annotated[int, Field(gt=0, le=10**15, strict=True)]]
    class_names: list[str] = Field(default_factory=list)
    domains: list[str] = Field(default_factory=list)
    """Names in order of arrival, a domain a task; empty for a class-incremental stream."""
    split_hash: str | None = None
    predictions_sha256: str | None = None
    timings: Timings
    costs: Costs
    provenance: dict[str, Any]
    flags: Flags = Field(default_factory=Flags)
    _metrics: Sequence[Metric] = PrivateAttr(default_factory=lambda: METRICS)  # a default is copied deeply each time
    migrated_from: int | None = None
    """The older schema of the original record; the checksum was then set at the migration."""

    @model_validator(mode="after")
    def _check_matrix(self) -> RunResult:
        tasks = len(self.accuracy_matrix)
        if any(len(row) != tasks for row in self.accuracy_matrix) or len(self.test_counts) != tasks:
            raise ValueError(f"accuracy_matrix and test_counts do not agree on {tasks} tasks")
        if None in self.accuracy_matrix[-1]:
            raise ValueError("the last row of accuracy_matrix has gaps")
        return self

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.accuracy_matrix)

    @property
    def fingerprint(self) -> str:
        """Hash of the code that made the result."""
        return str(self.provenance["code_fingerprint"])

    @property
    def plugins(self) -> dict[str, str]:
        """Hashes of the plugins' sources, by kind; empty where all code was the project's."""
        found = self.provenance.get("plugins")
        return {str(kind): str(source) for kind, source in found.items()} if isinstance(found, dict) else {}

    @property
    def made_by(self) -> str:
        """Hash of all code that made the result, that of its plugins included."""
        return with_sources(self.fingerprint, self.plugins)

    @property
    def limit(self) -> int | None:
        """Images a class that the run was limited to for trying out, None without a limit."""
        config = self.spec.get("benchmark", {}).get("config", {})
        found = config.get("limit") if isinstance(config, dict) else None
        return found if isinstance(found, int) else None

    @cached_property
    def setting(self) -> str:
        """The specification without its seeds: runs with equal settings may be averaged."""
        return _TEXTS.of({key: value for key, value in self.spec.items() if not key.endswith("_seed")})

    @cached_property
    def protocol(self) -> str:
        """Benchmark, backbone and precision, which must be equal for methods to be compared."""
        return _TEXTS.of({key: self.spec.get(key) for key in ("benchmark", "backbone", "precision")})

    @cached_property
    def stages(self) -> list[float | None]:
        """A_t, the average accuracy over the tasks seen, after each task, in percent."""
        return average_accuracies(self.accuracy_matrix)

    @cached_property
    def metrics(self) -> Mapping[str, float | None]:
        """Every registered metric by name, computed when it is asked for; ``None`` where it is not defined for the run.

        Asking raises UserError for a metric of a plugin that fails or returns something else than a finite number or None.
        """
        return _Values(self)

    def metric(self, name: str) -> Metric:
        """The registered metric of that name."""
        return next(metric for metric in self._metrics if metric.name == name)


class _Values(Mapping[str, float | None]):
    """The metrics of a run."""

    def __init__(self, run: RunResult) -> None:
        self._run = run
        self._known: dict[str, float | None] = {}

    def __getitem__(self, name: str) -> float | None:
        if name not in self._known:
            asked = [metric for metric in self._run._metrics if metric.name == name]
            self._known[name] = values_of(asked, self._run.run_id, self._run.accuracy_matrix, self._run.test_counts)[
                name
            ]
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return (metric.name for metric in self._run._metrics)

    def __len__(self) -> int:
        return len(self._run._metrics)


@lru_cache(maxsize=10_000, typed=True)
def _of_scalar(value: str | int | None) -> str:
    return canonical_json(value)


class _Texts:
    """Canonical JSON of mappings. The text of a part that is the same object as before is not made again: records that come
    from an index share their parts, which nobody changes."""

    _MOST = 1000

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, str]] = {}

    def of(self, mapping: Mapping[str, Any]) -> str:
        """As ``canonical_json``."""
        return f"{{{','.join(f'{_of_scalar(key)}:{self._part(mapping[key])}' for key in sorted(mapping))}}}"

    def _part(self, value: object) -> str:
        if value is None or isinstance(value, str | int):
            return _of_scalar(value)
        if not isinstance(value, dict):
            return canonical_json(value)
        known = self._known.get(id(value))
        if known is None or known[0] is not value:
            if len(self._known) >= self._MOST:
                self._known.clear()
            known = self._known[id(value)] = (value, canonical_json(value))
        return known[1]


_TEXTS = _Texts()


def read_outcome(run_id: str, result: Mapping[str, Any], metrics: Sequence[Metric] = METRICS) -> RunResult | LeftOut:
    """Check one stored result; ``LeftOut`` with the reason where it cannot be used. ``metrics``: those it will compute."""
    try:
        outcome = RunResult.model_validate(dict(result))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "record"
        return LeftOut(run_id, f"the record of {run_id} is not usable at {place}: {first['msg']}", "unusable")
    if run_id_of_text(_TEXTS.of(outcome.spec)) != run_id:
        reason = f"the specification in the record of {run_id} is not the one its id was made from; it was edited"
        return LeftOut(run_id, reason, "edited")
    outcome._metrics = metrics
    return outcome
