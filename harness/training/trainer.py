"""One run in progress: its parts, its tasks one after another, and what leaves it."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smope_bench.benchmarks.stream import Stream, Task
from smope_bench.harness import provenance
from smope_bench.harness.cancellation import StopRequest
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints, Position, RunProgress
from smope_bench.harness.checkpointing.manager import CheckpointManager, UnfitError, load_after
from smope_bench.harness.checkpointing.random_state import seed_everything
from smope_bench.harness.hardware.out_of_memory import OutOfMemoryRun, PeakMemory, is_out_of_memory
from smope_bench.harness.metrics import final_average_accuracy
from smope_bench.harness.records.cleanup import remove_temporary_files
from smope_bench.harness.records.event_log import OnEvent, RunLog
from smope_bench.harness.records.store import Record, Store, unwritable
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import RunSpec, derive_seed
from smope_bench.harness.training.data import FrozenFeatures, TaskData, flags_of, load_backbone, open_stream
from smope_bench.harness.training.evaluator import Evaluator
from smope_bench.harness.training.feature_cache import QUERIES, FrozenFeatureCache
from smope_bench.harness.training.observer import Observer
from smope_bench.harness.training.publish import publish
from smope_bench.harness.training.task_trainer import TaskTraining, TrainingContext, task_info
from smope_bench.methods.common.api import Method, Setup
from smope_bench.methods.common.backbone.memory_plan import MemoryPlan
from smope_bench.methods.common.schedules import Schedule


class Trainer:
    """One run in progress."""

    method: Method
    evaluator: Evaluator
    observer: Observer
    progress: RunProgress

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
        *,
        interruption: StopRequest | None = None,
        checkpoint_every_s: float = 300.0,
        may_publish: Callable[[], bool] = lambda: True,
    ) -> None:
        """``stream`` replaces the benchmark's own: a hyper-parameter search tests on held-out training images with it."""
        # What this process has loaded is what the record will name, whatever was planned.
        sources = registries.sources_of(spec.method.name, spec.benchmark.name, spec.backbone.name)
        spec = spec.model_copy(update={"sources": sources})
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
        kept = data / QUERIES if self.stream.content_hash else None
        weights, precision = spec.backbone.sha256, spec.precision
        self.queries = FrozenFeatureCache(self.backbone, self.stream, self.device, kept, weights, precision)
        self._observe = tuple(observe)
        self._tried: list[MemoryPlan] = []
        self.log = RunLog(self.folder, on_event)
        # What a checkpoint can be continued with: this code on these images, to the same last bits.
        arithmetic = f"{torch.__version__} {torch.get_num_threads()}"
        fingerprint = f"{spec.fingerprint} {self.stream.split_hash} {arithmetic}"
        self._checkpoints = Checkpoints(self.folder / "checkpoint", fingerprint)
        self.keeper = CheckpointManager(
            self.folder,
            self._checkpoints,
            self.log,
            interruption=interruption,
            every_s=checkpoint_every_s,
            may_publish=may_publish,
        )
        self._go_on_from(self.keeper.load())
        self.flags = flags_of(registries, spec, self.method)
        self.memory = PeakMemory(self.device)

    def __enter__(self) -> Trainer:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open_log()
        except OSError as error:
            raise unwritable(self.spec.run_id, self.folder, error) from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.log.close()

    # -- preparation ---------------------------------------------------------------------------------------------------

    def _make_method(self) -> Method:
        seed_everything(derive_seed(self.spec.train_seed, "init"))
        setup = Setup(self.stream.num_classes, len(self.stream.tasks), self.schedule)
        config = self.method_class.Config(**self.spec.method.config)
        return self.method_class(config, self.backbone, setup).to(self.device)

    def _go_on_from(self, found: Checkpoint | None) -> None:
        """Make the method and all that watches it, as ``found`` has them or as they begin."""
        self.method = self._make_method()
        self.evaluator = Evaluator(self.method, self.stream, self.device, self.queries.of)
        self.observer = Observer(self._observe, self._observed_before(found), self.method, self.evaluator)
        self._inside: Checkpoint | None = None
        self.progress, self._mark = RunProgress(), (0, 0.0)
        if not self._tried:
            self.backbone.memory = MemoryPlan(**(found.plan if found else {}))
        # What finished tasks did not observe is lost: then the run starts anew.
        if found is None or not set(found.observe).issuperset(self.observer.names):
            self._checkpoints.start_anew()
            return
        start = found.tensors if found.position is None else found.start
        if start is not None:
            done = self.stream.tasks[: found.progress.tasks_done]
            try:
                load_after(self.method, start, map(task_info, done))
            except UnfitError:
                self._go_on_from(None)
                return
        self.observer.restore(found.observed)
        self.progress, self._mark = found.progress, found.log
        self._inside = None if found.position is None else found

    def _observed_before(self, found: Checkpoint | None) -> set[str]:
        """What the run has observed for another suite: made anew, it observes that again."""
        record = self.store.load(self.spec.run_id)
        recorded = record.observes if isinstance(record, Record) else frozenset()
        return {*recorded, *(found.observe if found else ())}

    def _open_log(self) -> None:
        self.log.open(self._mark)
        facts = {"total_tasks": len(self.stream.tasks), "tasks_done": self.progress.tasks_done}
        (self.log.tell if self._mark[0] else self.log.say)("run_started", **facts)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run_tasks(self) -> None:
        """Train and evaluate every task that is not done yet.

        Out of memory, the run goes back to its last checkpoint and on from there with a tighter plan.
        """
        while True:
            try:
                for task in self.stream.tasks[self.progress.tasks_done :]:
                    self.keeper.stop_if_asked()
                    self._do(task)
                return
            except UnfitError:
                self._checkpoints.forget()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._tighten(error)
            self._start_again()  # not before the error and all that it holds of the step are gone

    def _do(self, task: Task) -> None:
        seed_everything(derive_seed(self.spec.train_seed, "task", task.index))
        data = self._task_data(task)
        with self._precision():
            training = TaskTraining(task, data, self._crew(), self._taken_inside())
            train_s = training.run()
            clock = [time.monotonic()]
            self.method.end_task(data)
        clock.append(time.monotonic())
        if training.is_saved:
            self.keeper.stop_if_asked()
        self._evaluate(task)
        clock.append(time.monotonic())
        timing = {
            "task": task.index,
            "train_s": train_s,
            "end_s": clock[1] - clock[0],
            "evaluate_s": clock[2] - clock[1],
        }
        self._finish_task(data, timing)

    def _taken_inside(self) -> Checkpoint | None:
        """What the first task goes on from; half a gigabyte at times, so nothing else refers to it afterwards."""
        found, self._inside = self._inside, None
        return found

    def _crew(self) -> TrainingContext:
        return TrainingContext(
            self.method,
            self.schedule,
            self.device,
            self.observer,
            self.log,
            self.keeper,
            self._moment,
            self.progress.learned,
            len(self.stream.tasks),
        )

    def _task_data(self, task: Task) -> TaskData:
        return TaskData(
            task.train,
            self.stream.transforms,
            batch_size=self.schedule.batch_size,
            device=self.device,
            seed=derive_seed(self.spec.train_seed, "data", task.index),
            frozen_features=FrozenFeatures(self.backbone.features, self.queries.of)
            if self.method.needs_query
            else None,
        )

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

    def _finish_task(self, data: TaskData, timing: dict[str, float]) -> None:
        self.observer.task_ended()
        progress = self.progress
        progress.timings.append(timing)
        progress.train_images += data.images_read
        progress.peak_memory_mb = max(progress.peak_memory_mb, self.memory.read_mb())
        self.say("task_evaluated", task=timing["task"], accuracies=progress.matrix[-1])
        self.keeper.save(self._moment)

    def _moment(
        self,
        position: Position | None = None,
        training: dict[str, Tensor] | None = None,
        values: dict[str, Any] | None = None,
    ) -> Checkpoint:
        """The run as it is now."""
        self.progress.peak_memory_mb = max(self.progress.peak_memory_mb, self.memory.read_mb())
        return Checkpoint(
            self.method.state_dict(),
            self.progress,
            self.observer.names,
            self.observer.kept(),
            position,
            training or {},
            values or {},
            asdict(self.backbone.memory),
            self.log.mark(),
        )

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.spec.precision == "bf16":
            # Without the cache of cast weights: within one autocast region it would outlive the optimiser's steps.
            return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False)
        return contextlib.nullcontext()

    # -- short of memory -----------------------------------------------------------------------------------------------

    def _tighten(self, error: Exception) -> None:
        """Let the backbone keep less. Raises OutOfMemoryRun where it keeps as little as it can."""
        self._tried.append(self.backbone.memory)
        tighter = self.backbone.memory.tighter(self.schedule.batch_size)
        if tighter is None:
            peak = max(self.progress.peak_memory_mb, self.memory.read_mb())
            raise OutOfMemoryRun(
                str(self.device),
                self.schedule.batch_size,
                self._tried,
                peak,
                precision=self.spec.precision,
                task=self.progress.tasks_done,
            ) from error
        self.backbone.memory = tighter

    def _start_again(self) -> None:
        """Go on as another process would."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._go_on_from(self.keeper.load())
        self._open_log()
        if self._tried:
            self.say("memory_plan", plan=self.backbone.memory.words)

    # -- what leaves the run -------------------------------------------------------------------------------------------

    def say(self, event: str, **facts: Any) -> None:
        """Tell the listener and the run's own log."""
        self.log.say(event, **facts)

    def publish(self, started: str) -> None:
        """Write predictions and observations, then the record; the checkpoint has served. Raises UserError, ClaimLost."""
        with self._precision():
            self.observer.run_ended()
        self.keeper.require_ours()
        publish(self, started)
        self.say("run_finished", faa=final_average_accuracy(self.progress.matrix))
        self._checkpoints.forget()
        remove_temporary_files(self.folder)


__all__ = ["OnEvent", "Trainer", "load_backbone", "open_stream", "run", "seed_everything"]


def run(
    spec: RunSpec,
    *,
    results_root: Path,
    data_root: Path,
    device: str,
    registries: Registries,
    on_event: OnEvent = lambda _: None,
    observe: Iterable[str] = (),
    interruption: StopRequest | None = None,
    checkpoint_every_s: float = 300.0,
    may_publish: Callable[[], bool] = lambda: True,
) -> None:
    """Train and evaluate ``spec`` and publish its record; continue where an earlier attempt of this code stopped.

    ``observe`` names what figures need of the run beside accuracies; it changes no number. The data must be prepared.
    Checkpoints are written after every task, and inside a task every ``checkpoint_every_s`` seconds; ``interruption`` is looked
    at after every step. ``may_publish`` is asked before anything is written that another process could have written meanwhile.

    Raises Interrupted once the run is saved, ClaimLost where it is another's, RunDivergedError when a loss stops being finite,
    OutOfMemoryRun, UserError where the method cannot be observed so or the results folder cannot be written, and the rooms'
    own errors.
    """
    started = provenance.now()
    with (
        torch.random.fork_rng(devices=[]),
        Trainer(
            spec,
            results_root,
            data_root,
            device,
            registries,
            on_event,
            observe=observe,
            interruption=interruption,
            checkpoint_every_s=checkpoint_every_s,
            may_publish=may_publish,
        ) as session,
    ):
        session.run_tasks()
        session.publish(started)
