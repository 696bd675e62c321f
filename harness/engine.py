"""The only train/evaluate loop of the project: one method through one benchmark's task stream, published as one record."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.stream import Stream, Task, build_stream
from harness import provenance
from harness.checkpoint import Checkpoint, Progress, forget_checkpoint, load_checkpoint, save_checkpoint
from harness.data import FrozenFeatures, TaskData
from harness.errors import RunDivergedError, UserError
from harness.evaluate import Evaluator
from harness.memory import PeakMemory
from harness.metrics import final_average_accuracy
from harness.observations import npz_bytes, write_observations
from harness.observe import Observer
from harness.optimise import Stretch, declare_trainable, declared_sizes, stretch_epochs
from harness.queries import QUERIES, Queries
from harness.record import make_record
from harness.registry import Registries
from harness.spec import RunSpec, derive_seed
from harness.store import Record, Store, write_bytes
from methods.common.api import Method, Phase, Setup, TaskInfo
from methods.common.schedules import Schedule
from methods.common.vit import PromptedViT

OnEvent = Callable[[dict[str, Any]], None]

EVENT_INTERVAL_S = 0.2


def run(
    spec: RunSpec,
    *,
    results_root: Path,
    data_root: Path,
    device: str,
    registries: Registries,
    on_event: OnEvent = lambda _: None,
    observe: Iterable[str] = (),
) -> None:
    """Train and evaluate ``spec`` and publish its record; continue where an earlier attempt of this code stopped.

    ``observe`` names what figures need of the run beside accuracies; it changes no number. The data must be prepared. Raises
    RunDivergedError when a loss stops being finite, UserError where the method cannot be observed so, and the rooms' own
    errors.
    """
    started = provenance.now()
    with (
        torch.random.fork_rng(devices=[]),
        Session(spec, results_root, data_root, device, registries, on_event, observe=observe) as session,
    ):
        session.run_tasks()
        session.publish(started)


class Session:
    """One run in progress."""

    def __init__(
        self,
        spec: RunSpec,
        results: Path,
        data: Path,
        device: str,
        registries: Registries,
        on_event: OnEvent,
        stream: Stream | None = None,
        observe: Iterable[str] = (),
    ) -> None:
        """``stream`` replaces the benchmark's own: a hyper-parameter search tests on held-out training images with it."""
        self.spec = spec
        self.store = Store(results)
        self.folder = self.store.path(spec.run_id)
        self.device = torch.device(device)
        self.schedule = Schedule(**spec.schedule)
        self.method_class: type[Method] = registries.methods.load(spec.method.name)
        self.backbone = load_backbone(registries, spec, data).to(self.device)
        self.stream = stream or open_stream(registries, spec, data)
        if self.method_class.trains_jointly:
            self.stream = self.stream.merged()
        self.method = self._make_method()
        self.flags = _flags(registries, spec, self.method)
        kept = data / QUERIES if self.stream.content_hash else None
        weights, precision = spec.backbone.sha256, spec.precision
        self.queries = Queries(self.backbone, self.stream, self.device, kept, weights, precision)
        self.evaluator = Evaluator(self.method, self.stream, self.device, self.queries.of)
        self._checkpoint = self.folder / "checkpoint"
        found = load_checkpoint(self._checkpoint, self._fingerprint)
        self.observer = Observer(observe, self._observed_before(found), self.method, self.evaluator)
        self.progress = self._resumed(found)
        self.memory = PeakMemory(self.device)
        self._listener = on_event
        self._clock = time.monotonic()
        self._spoken = 0.0

    def __enter__(self) -> Session:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = _events_before(self.folder / "events.jsonl", self.progress.tasks_done)
        self._events = (self.folder / "events.jsonl").open("w", encoding="utf-8")
        self._events.writelines(kept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._events.close()

    # -- preparation ---------------------------------------------------------------------------------------------------

    def _make_method(self) -> Method:
        seed_everything(derive_seed(self.spec.train_seed, "init"))
        setup = Setup(self.stream.num_classes, len(self.stream.tasks), self.schedule)
        config = self.method_class.Config(**self.spec.method.config)
        return self.method_class(config, self.backbone, setup).to(self.device)

    @property
    def _fingerprint(self) -> str:
        """What a checkpoint can be continued with: this code on these images."""
        return f"{provenance.code_fingerprint()} {self.stream.split_hash}"

    def _observed_before(self, found: Checkpoint | None) -> set[str]:
        """What the run has observed for another suite: made anew, it observes that again."""
        record = self.store.load(self.spec.run_id)
        recorded = record.observes if isinstance(record, Record) else frozenset()
        return {*recorded, *(found.observe if found else ())}

    def _resumed(self, found: Checkpoint | None) -> Progress:
        """Where to go on. What finished tasks did not observe is lost, so that the run starts anew."""
        if found is None or not set(found.observe).issuperset(self.observer.names):
            return Progress()
        self.method.load_state_dict(found.tensors)
        self.observer.restore(found.observed)
        return found.progress

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run_tasks(self) -> None:
        """Train and evaluate every task that is not done yet, with a checkpoint after each."""
        done = self.progress.tasks_done
        self.say("run_started", total_tasks=len(self.stream.tasks), tasks_done=done)
        for task in self.stream.tasks[done:]:
            seed_everything(derive_seed(self.spec.train_seed, "task", task.index))
            data = self._task_data(task)
            clock = [time.monotonic()]
            with self._precision():
                self._train(task, data)
                clock.append(time.monotonic())
                self.method.end_task(data)
            clock.append(time.monotonic())
            self._evaluate(task)
            clock.append(time.monotonic())
            self._finish_task(task, data, clock)

    def _task_data(self, task: Task) -> TaskData:
        return TaskData(
            task.train,
            self.stream.transforms,
            batch_size=self.schedule.batch_size,
            device=self.device,
            seed=derive_seed(self.spec.train_seed, "data", task.index),
            frozen_features=self._frozen_features() if self.method.needs_query else None,
        )

    def _frozen_features(self) -> FrozenFeatures:
        return FrozenFeatures(self.backbone.features, self.queries.of)

    def _train(self, task: Task, data: TaskData) -> None:
        counts = np.bincount(task.train.labels, minlength=task.classes.stop)[task.classes.start :]
        info = TaskInfo(task.index, task.classes, tuple(int(count) for count in counts))
        self.method.enter_task(info)
        self.method.begin_task(info)
        self.say("task_started", task=task.index, images=len(data))
        if self.method.is_closed_form:
            self.method.fit_task(data)
            return
        self.method.train()
        phases = self.method.phases()
        total = sum(phase.epochs for phase in phases) * data.steps(drop_last=self.schedule.drop_last)
        stretch: Stretch | None = None
        for number, phase in enumerate(phases):
            self.method.begin_phase(phase)
            groups = self.method.parameter_groups()
            declare_trainable(self.method, groups)
            self.progress.learned |= declared_sizes(self.method, groups)
            if stretch is None or not phase.continues:
                done = 0 if stretch is None else stretch.done
                stretch = Stretch(self._phase_schedule(phase), groups, stretch_epochs(phases, number), done, total)
            if number == 0:
                self.observer.training_starts(task, phase.name)
            self._train_phase(task, data, phase, stretch)
        self.method.eval()

    def _phase_schedule(self, phase: Phase) -> Schedule:
        own = {"lr": phase.lr, "shape": phase.shape}
        return self.schedule.model_copy(update={key: value for key, value in own.items() if value is not None})

    def _train_phase(self, task: Task, data: TaskData, phase: Phase, stretch: Stretch) -> None:
        per_epoch = data.steps(drop_last=self.schedule.drop_last)
        for epoch in range(phase.epochs):
            losses, steps = 0.0, 0
            for batch in self.method.epoch_batches(data):
                stretch.set_rate(per_epoch)
                loss = self.method.training_step(batch)
                losses += self._finite(loss.item(), task, phase.name, stretch.step)
                stretch.descend(loss, self.method)
                steps += 1
                self._say_step(task, phase.name, stretch.done, stretch.total)
            self.say("epoch", task=task.index, phase=phase.name, epoch=epoch, loss=losses / max(steps, 1))
            self.observer.epoch_ended(task, phase.name)

    def _finite(self, loss: float, task: Task, phase: str, step: int) -> float:
        if not math.isfinite(loss):
            good = f"last good task: {task.index - 1}" if task.index else "no task was finished"
            raise RunDivergedError(
                f"the loss became {loss} at step {step} of phase {phase!r} of task {task.index} ({good}); lower the rate,"
                f" for example --set schedule.lr={self.schedule.lr / 5:g}"
            )
        return loss

    def _evaluate(self, task: Task) -> None:
        """Fill the matrix row of this stage."""
        with self._precision():
            row, predictions = self.evaluator.measure(task)
        missing = self.stream.num_tasks - len(self.stream.tasks)
        if not self.progress.matrix:  # joint training measures only the last stage
            self.progress.matrix.extend([None] * self.stream.num_tasks for _ in range(missing))
            self.progress.predictions.extend([] for _ in range(missing))
        self.progress.matrix.append(row)
        self.progress.predictions.append(predictions)
        self.progress.test_images += len(predictions)

    def _finish_task(self, task: Task, data: TaskData, clock: list[float]) -> None:
        self.observer.task_ended()
        train, end, evaluate = (later - sooner for sooner, later in itertools.pairwise(clock))
        train -= self.observer.seconds_since_asked()
        self.progress.timings.append({"task": task.index, "train_s": train, "end_s": end, "evaluate_s": evaluate})
        self.progress.train_images += data.images_read
        self.progress.peak_memory_mb = max(self.progress.peak_memory_mb, self.memory.read_mb())
        self.say("task_evaluated", task=task.index, accuracies=self.progress.matrix[-1])
        observer, fingerprint = self.observer, self._fingerprint
        save_checkpoint(self._checkpoint, self.method, self.progress, fingerprint, observer.names, observer.kept())

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.spec.precision == "bf16":
            # Without the cache of cast weights: within one autocast region it would outlive the optimiser's steps.
            return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False)
        return contextlib.nullcontext()

    # -- what leaves the run -------------------------------------------------------------------------------------------

    def say(self, event: str, **facts: Any) -> None:
        """Tell the listener and the run's own log."""
        entry = {"event": event, **facts}
        self._events.write(json.dumps({"t": round(time.monotonic() - self._clock, 3), **entry}) + "\n")
        self._events.flush()
        self._listener(entry)

    def _say_step(self, task: Task, phase: str, step: int, total: int) -> None:
        now = time.monotonic()
        if now - self._spoken >= EVENT_INTERVAL_S or step == total:
            self._spoken = now
            self._listener({"event": "step", "task": task.index, "phase": phase, "step": step, "total_steps": total})

    def publish(self, started: str) -> None:
        """Write predictions and observations, then the record; the checkpoint has served."""
        progress, stream = self.progress, self.stream
        stages = {f"stage_{stage}": np.array(row, dtype=np.int32) for stage, row in enumerate(progress.predictions)}
        labels = np.concatenate([view.labels for view in stream.tests]).astype(np.int32)
        predictions = npz_bytes({"labels": labels, **stages})
        write_bytes(self.folder / "predictions.npz", predictions)
        with self._precision():
            self.observer.run_ended()
        observed = write_observations(self.folder, self.observer.names, self.observer.arrays())
        digest, device = hashlib.sha256(predictions).hexdigest(), str(self.device)
        record = make_record(self.spec, stream, progress, self.backbone, device, started, self.flags, digest, observed)
        self.store.write_result(self.spec.run_id, record)
        self.say("run_finished", faa=final_average_accuracy(progress.matrix))
        forget_checkpoint(self._checkpoint)


def open_stream(registries: Registries, spec: RunSpec, data_root: Path) -> Stream:
    """The prepared benchmark of ``spec`` in its class order."""
    benchmark = registries.benchmarks.load(spec.benchmark.name)
    return build_stream(benchmark(benchmark.Config(**spec.benchmark.config), data_root), spec.order_seed)


def load_backbone(registries: Registries, spec: RunSpec, data_root: Path) -> PromptedViT:
    """The backbone of ``spec``; UserError where the weights are no longer those that the spec was planned with."""
    backbone = registries.backbones.load(spec.backbone.name).at(data_root)
    if backbone.sha256 != spec.backbone.sha256:
        raise UserError(
            f"backbone {spec.backbone.name!r} now has weights {backbone.sha256[:16]}, but the run was planned with"
            f" {spec.backbone.sha256[:16]}; plan it again"
        )
    return backbone.load()


def seed_everything(seed: int) -> None:
    """Seed the generators that a method may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _flags(registries: Registries, spec: RunSpec, method: Method) -> dict[str, bool]:
    """What must be said of the run wherever it is shown."""
    backbone = registries.backbones.load(spec.backbone.name)
    leaking = type(method).leaks(method.config)
    return {"tiny": backbone.is_tiny, "random_backbone": backbone.is_random, "leaking": leaking}


def _events_before(file: Path, task: int) -> Iterator[str]:
    """Lines of an earlier attempt about tasks that need not be repeated."""
    kept: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept.extend(line for line in lines if json.loads(line).get("task", task) < task)
    return iter(kept)
