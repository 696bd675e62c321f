"""One stored result, checked and typed, with its metrics."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from smope_bench.harness import metrics as built_in
from smope_bench.harness import run_spec
from smope_bench.harness.metrics import METRICS, Metric, average_accuracies
from smope_bench.harness.provenance import with_sources
from smope_bench.harness.records.record import Fault, Record
from smope_bench.harness.records.store import Derived
from smope_bench.harness.registry import metrics as registry
from smope_bench.harness.registry.metrics import values_of
from smope_bench.harness.run_spec import CanonicalTexts, run_id_of_text

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


class Content(_Part):
    """All that a record holds of a run; ``accuracy_matrix`` is (tasks, tasks) in percent, ``None`` where not measured."""

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
    migrated_from: int | None = None
    """The older schema of the original record; the checksum was then set at the migration."""

    @model_validator(mode="after")
    def _check_matrix(self) -> Content:
        tasks = len(self.accuracy_matrix)
        if any(len(row) != tasks for row in self.accuracy_matrix) or len(self.test_counts) != tasks:
            raise ValueError(f"accuracy_matrix and test_counts do not agree on {tasks} tasks")
        if None in self.accuracy_matrix[-1]:
            raise ValueError("the last row of accuracy_matrix has gaps")
        return self


@dataclass(frozen=True, eq=False)
class Setup:
    """What many runs have alike: their specification without seeds, number of tasks, flags, and the code that made them."""

    spec: Mapping[str, Any]
    tasks: int
    flags: Flags
    fingerprint: str
    """Hash of the project's code that made the runs."""
    plugins: Mapping[str, str]
    """Hashes of the plugins' sources, by kind; empty where all code was the project's."""

    @cached_property
    def made_by(self) -> str:
        """Hash of all code that made the runs, that of plugins included."""
        return with_sources(self.fingerprint, dict(self.plugins))

    @cached_property
    def limit(self) -> int | None:
        """Images a class that the runs were limited to for trying out, None without a limit."""
        config = self.spec.get("benchmark", {}).get("config", {})
        found = config.get("limit") if isinstance(config, dict) else None
        return found if isinstance(found, int) else None

    @cached_property
    def setting(self) -> str:
        """The specification as text: runs with equal ones may be averaged."""
        return _TEXTS.of(self.spec)

    @cached_property
    def protocol(self) -> str:
        """Benchmark, backbone and precision, which must be equal for methods to be compared."""
        return _TEXTS.of({key: self.spec.get(key) for key in ("benchmark", "backbone", "precision")})


class RunResult:
    """A result of one run. What tables compare is at hand; the rest of its record may be read when it is asked for.

    ``seeds``: the fields of the specification that ``setup`` does not have. ``finished``: time at which the run ended (ISO 8601,
    UTC), or nothing. ``started``, ``git_revision``: as the record has them, or None. ``total_s``, ``train_s``: wall seconds in
    all, and of training and the ends of tasks.
    """

    def __init__(self, content: Content, metrics: Sequence[Metric] = METRICS) -> None:
        spec, made, seeds = content.spec, content.provenance, [key for key in content.spec if key.endswith("_seed")]
        plugins = made.get("plugins")
        self.run_id, self.split_hash = content.run_id, content.split_hash
        self.setup = Setup(
            {key: value for key, value in spec.items() if key not in seeds},
            len(content.accuracy_matrix),
            content.flags,
            str(made["code_fingerprint"]),
            {str(kind): str(source) for kind, source in plugins.items()} if isinstance(plugins, dict) else {},
        )
        self.seeds: Mapping[str, Any] = {key: spec[key] for key in seeds}
        self.finished = str(made.get("finished") or "")
        self.started, self.git_revision = made.get("started"), made.get("git_revision")
        self.total_s, self.train_s = content.timings.total_s, content.timings.train_s
        self._content: Content | Callable[[str], Content] = content
        self._costs: Costs | Sequence[Any] = content.costs
        self._metrics, self._values = metrics, dict[str, float | None]()

    @classmethod
    def recalled(
        cls, run_id: str, setup: Setup, own: Sequence[Any], metrics: Sequence[Metric], read: Callable[[str], Content]
    ) -> Self:
        """The result that ``derived`` was called of; ``read`` reads its record by the run's id where more is asked for."""
        made = cls.__new__(cls)
        made.run_id, made.setup, made._metrics, made._content = run_id, setup, metrics, read
        made.seeds, made.split_hash, made.finished, made.started, made.git_revision, *times, made._costs, values = own
        made.total_s, made.train_s = times
        made._values = dict(zip(_BUILT_IN, values, strict=True))
        return made

    def __eq__(self, other: object) -> bool:
        """Whether both have the same record."""
        return isinstance(other, RunResult) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.run_id)

    @property
    def derived(self) -> Derived:
        """What an equal result is made of by ``setup_of`` and ``recalled``."""
        setup, costs = self.setup, self.costs
        alike = [dict(setup.spec), setup.tasks, setup.flags.model_dump(), setup.fingerprint, dict(setup.plugins)]
        own = [
            dict(self.seeds),
            self.split_hash,
            self.finished,
            self.started,
            self.git_revision,
            self.total_s,
            self.train_s,
        ]
        own += [[getattr(costs, name) for name in Costs.model_fields], [self.value(name) for name in _BUILT_IN]]
        return Derived(alike, own)

    @property
    def content(self) -> Content:
        """All that the record holds."""
        return self._content if isinstance(self._content, Content) else self._content(self.run_id)

    @property
    def spec(self) -> Mapping[str, Any]:
        """The specification of the run."""
        return self._content.spec if isinstance(self._content, Content) else {**self.setup.spec, **self.seeds}

    @property
    def accuracy_matrix(self) -> list[list[float | None]]:
        """(tasks, tasks) in percent, ``None`` where not measured."""
        return self.content.accuracy_matrix

    @property
    def test_counts(self) -> list[int]:
        """Test images of each task."""
        return self.content.test_counts

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in order of arrival."""
        return self.content.class_names

    @property
    def domains(self) -> list[str]:
        """Names in order of arrival, a domain a task; empty for a class-incremental stream."""
        return self.content.domains

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How the record came about."""
        return self.content.provenance

    @property
    def timings(self) -> Timings:
        """Wall times."""
        return self.content.timings

    @property
    def costs(self) -> Costs:
        """Parameters, memory and images."""
        if isinstance(self._costs, Costs):
            return self._costs
        return Costs.model_construct(**dict(zip(Costs.model_fields, self._costs, strict=True)))

    @property
    def flags(self) -> Flags:
        """Properties that limit a comparison with other runs."""
        return self.setup.flags

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self.setup.tasks

    @property
    def fingerprint(self) -> str:
        """Hash of the project's code that made the result."""
        return self.setup.fingerprint

    @property
    def plugins(self) -> Mapping[str, str]:
        """Hashes of the plugins' sources, by kind; empty where all code was the project's."""
        return self.setup.plugins

    @property
    def made_by(self) -> str:
        """Hash of all code that made the result, that of its plugins included."""
        return self.setup.made_by

    @property
    def limit(self) -> int | None:
        """Images a class that the run was limited to for trying out, None without a limit."""
        return self.setup.limit

    @property
    def setting(self) -> str:
        """The specification without its seeds: runs with equal settings may be averaged."""
        return self.setup.setting

    @property
    def protocol(self) -> str:
        """Benchmark, backbone and precision, which must be equal for methods to be compared."""
        return self.setup.protocol

    @cached_property
    def stages(self) -> list[float | None]:
        """A_t, the average accuracy over the tasks seen, after each task, in percent."""
        return average_accuracies(self.accuracy_matrix)

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Every registered metric by name, as ``value`` gives it."""
        return _Values(self)

    def value(self, name: str) -> float | None:
        """A registered metric, computed when it is first asked for; ``None`` where it is not defined for the run.

        Raises UserError for a metric of a plugin that fails or returns something else than a finite number or None.
        """
        if name not in self._values:
            asked = [metric for metric in self._metrics if metric.name == name]
            content = self.content
            self._values[name] = values_of(asked, self.run_id, content.accuracy_matrix, content.test_counts)[name]
        return self._values[name]

    def metric(self, name: str) -> Metric:
        """The registered metric of that name."""
        return next(metric for metric in self._metrics if metric.name == name)


class _Values(Mapping[str, float | None]):
    """The metrics of a run."""

    def __init__(self, run: RunResult) -> None:
        self._run = run

    def __getitem__(self, name: str) -> float | None:
        return self._run.value(name)

    def __iter__(self) -> Iterator[str]:
        return (metric.name for metric in self._run._metrics)

    def __len__(self) -> int:
        return len(self._run._metrics)


_TEXTS = CanonicalTexts()
_BUILT_IN = [metric.name for metric in METRICS]


def setup_of(alike: Sequence[Any]) -> Setup:
    """The setup that ``RunResult.derived`` gave."""
    spec, tasks, flags, fingerprint, plugins = alike
    return Setup(spec, tasks, Flags(**flags), fingerprint, plugins)


def derive(record: Record) -> Derived | None:
    """``RunResult.derived`` of a record that can be used."""
    outcome = read_outcome(record.run_id, record.result)
    return None if isinstance(outcome, LeftOut) else outcome.derived


@functools.cache
def derived_by() -> str:
    """Changes with all that decides what ``derive`` makes of a record."""
    files = [Path(str(module.__file__)).read_bytes() for module in (built_in, registry, run_spec)]
    return hashlib.sha256(b"\0".join([Path(__file__).read_bytes(), *files, pydantic.VERSION.encode()])).hexdigest()


def read_outcome(run_id: str, result: Mapping[str, Any], metrics: Sequence[Metric] = METRICS) -> RunResult | LeftOut:
    """Check one stored result; ``LeftOut`` with the reason where it cannot be used. ``metrics``: those it will compute."""
    try:
        content = Content.model_validate(dict(result))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "record"
        return LeftOut(run_id, f"the record of {run_id} is not usable at {place}: {first['msg']}", "unusable")
    if run_id_of_text(_TEXTS.of(content.spec)) != run_id:
        reason = f"the specification in the record of {run_id} is not the one its id was made from; it was edited"
        return LeftOut(run_id, reason, "edited")
    return RunResult(content, metrics)
