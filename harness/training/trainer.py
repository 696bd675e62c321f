"""The trainer of a run: runs one RunSpec from its components to its published record."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from smope_bench.benchmarks.durable import make_folder
from smope_bench.benchmarks.stream import Stream, Task
from smope_bench.harness import provenance
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints, Position, RunProgress
from smope_bench.harness.checkpointing.manager import CheckpointManager, UnfitError, load_after
from smope_bench.harness.checkpointing.random_state import seed_everything
from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.device import precision_remark, products_in
from smope_bench.harness.hardware.device_lost import DeviceLost, is_device_lost
from smope_bench.harness.hardware.gpus import describe_device
from smope_bench.harness.hardware.memory import heap_frozen
from smope_bench.harness.hardware.out_of_memory import OutOfMemoryRun, PeakMemory, is_out_of_memory
from smope_bench.harness.metrics import final_average_accuracy
from smope_bench.harness.records.cleanup import CHECKPOINT, remove_temporary_files
from smope_bench.harness.records.event_log import RunLog
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store, unwritable
from smope_bench.harness.registry.registry import Registries, uncollected
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import RunSpec, derive_seed
from smope_bench.harness.training.batches.data import TaskData, flags_of, load_backbone, open_stream
from smope_bench.harness.training.batches.feature_cache import QUERIES, FrozenFeatureCache
from smope_bench.harness.training.batches.feeder import Feeder
from smope_bench.harness.training.evaluator import Evaluator
from smope_bench.harness.training.extension import Inherited, read_inherited, take_over
from smope_bench.harness.training.observer import Observer
from smope_bench.harness.training.prompt_remark import prompt_remark
from smope_bench.harness.training.publish import FinishedRun, publish
from smope_bench.harness.training.task_trainer import TaskTrainer, TrainingContext, task_info
from smope_bench.methods.common.api import Method, Setup
from smope_bench.methods.common.progress import listening
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.memory_plan import MemoryPlan


class Trainer:
    """One run: its method, its data, and its tasks one after another.

    A context manager; inside it call ``run_tasks``, then ``publish``.
    """

    method: Method
    evaluator: Evaluator
    observer: Observer
    progress: RunProgress

    def __init__(
        self,
        spec: RunSpec,
        options: RunOptions,
        context: RunContext,
        registries: Registries,
        *,
        stream: Stream | None = None,
        observe: Iterable[str] = (),
    ) -> None:
        """``stream`` replaces the benchmark's own: a hyper-parameter search tests on held-out training images with it."""
        # The record names the plugins that this process has loaded, whatever was planned.
        sources = registries.sources_of(spec.method.name, spec.benchmark.name, spec.backbone.name)
        self.spec = spec = spec.model_copy(update={"sources": sources})
        self.store = Store(options.results)
        self.folder = self.store.path(spec.run_id)
        self.device = torch.device(options.device)
        self.schedule = Schedule(**spec.schedule)
        self.method_class: type[Method] = registries.methods.load(spec.method.name)
        self.backbone = load_backbone(registries, spec, options.data).to(self.device)
        self.stream = stream or open_stream(registries, spec, options.data)
        if self.method_class.trains_jointly:
            self.stream = self.stream.merged()
        self.feeder = Feeder(self.device)
        self.memory = PeakMemory(self.device, optimizes=self.method_class.fit_task is Method.fit_task)
        self.features = FrozenFeatureCache(
            self.backbone,
            self.stream,
            self.device,
            options.data / QUERIES if self.stream.content_hash else None,
            spec.backbone.features_key,
            spec.precision,
            self.feeder,
            self.memory,
        )
        self.log = RunLog(self.folder, context.emit)
        # A run is resumed only by the same code, on the same images, and with the same arithmetic to the last bit.
        fingerprint = f"{spec.fingerprint} {self.stream.split_hash} {torch.__version__} {torch.get_num_threads()}"
        self._checkpoint_files = Checkpoints(self.folder / CHECKPOINT, fingerprint)
        self.checkpoints = CheckpointManager(
            self.folder,
            self._checkpoint_files,
            self.log,
            context,
            options.checkpoint_every_s,
            self.device.type,
            allow_device_change=options.allow_device_change,
        )
        self._observe = tuple(observe)
        self._keeps, self._extendable = options.keep, options.extendable
        self._inherited: Inherited | None = None
        """The state of the parent of an extended run, read once."""
        self._tried_plans: list[MemoryPlan] = []
        self._restore(self.checkpoints.load())
        self.flags = flags_of(registries, spec, self.method, options.data)

    def __enter__(self) -> Trainer:
        try:
            if not self.folder.is_dir():  # who holds its lease has made it
                make_folder(self.folder)
            self._open_log()
        except OSError as error:
            raise unwritable(self.spec.run_id, self.folder, error) from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.feeder.close()
        self.log.close()

    # -- from the beginning or from a checkpoint -----------------------------------------------------------------------

    def _restore(self, found: Checkpoint | None) -> None:
        """Build the method, its evaluator and its observer, in the state of ``found`` or, with None, at the run's start."""
        self.method = self._make_method()
        self.evaluator = Evaluator(self.method, self.stream, self.device, self.features.of, self.feeder)
        self.observer = Observer(self._observe, self._observed_before(found), self.method, self.evaluator)
        self.progress, self._log_mark = RunProgress(), (0, 0.0)
        self._resume_from: Checkpoint | None = None
        if not self._tried_plans:
            self.backbone.memory = MemoryPlan(**(found.plan if found else {}))
        # Finished tasks cannot be observed any more: with a name that they did not observe, the run starts anew.
        if found is None or not set(found.observe).issuperset(self.observer.names):
            self._checkpoint_files.start_anew()
            self._inherit()
            return
        tensors = found.tensors if found.position is None else found.start
        if tensors is not None:
            done = self.stream.tasks[: found.progress.tasks_done]
            try:
                load_after(self.method, tensors, map(task_info, done))
            except UnfitError:
                self._restore(None)
                return
        self.observer.restore(found.observed)
        self.progress, self._log_mark = found.progress, found.log
        self._resume_from = None if found.position is None else found

    def _inherit(self) -> None:
        """Begin an extended run where its parent ended."""
        if (parent := self.spec.parent) is None:
            return
        if self._inherited is None:
            self._inherited = read_inherited(self.store, parent, self.stream.num_tasks)
        tasks = [task_info(task) for task in self.stream.tasks[: parent.tasks]]
        try:
            take_over(self.method, self._inherited.tensors, tasks)
        except UnfitError as error:
            raise UserError(f"run {parent.run_id} cannot be extended by this version of the code: {error}") from error
        self.progress = self._inherited.fresh_progress()

    def _make_method(self) -> Method:
        seed_everything(derive_seed(self.spec.train_seed, "init"))
        setup = Setup(self.stream.num_classes, len(self.stream.tasks), self.schedule, self.stream.protocol)
        config = self.method_class.Config(**self.spec.method.config)
        return self.method_class(config, self.backbone, setup).to(self.device)

    def _observed_before(self, found: Checkpoint | None) -> set[str]:
        """Names that the run has observed for other suites: it must still observe them when it is repeated."""
        record = self.store.load(self.spec.run_id)
        recorded = record.observes if isinstance(record, Record) else frozenset()
        return {*recorded, *(found.observe if found else ())}

    def _open_log(self) -> None:
        self.log.open(self._log_mark)
        is_resumed = self._log_mark[0] > 0
        here = describe_device(self.device, provenance.cpu_model())
        if here not in self.progress.devices:
            self.progress.devices.append(here)
        changes = {"device_changes": self.progress.device_changes} if self.progress.device_changes else {}
        remark = precision_remark(self.spec.precision, str(self.device))
        may_prompt = self.method.card.kind != "adapter" and not self.method.is_closed_form
        inert = None
        if may_prompt and not is_resumed:
            with self._precision():
                inert = prompt_remark(self.backbone, self.stream, self.device, self.feeder)
        facts = {
            "device": here,
            "precision": self.spec.precision,
            **({"precision_remark": remark} if remark else {}),
            **({"prompt_remark": inert} if inert else {}),
            **changes,
            "total_tasks": len(self.stream.tasks),
            "tasks_done": self.progress.tasks_done,
        }
        (self.log.notify if is_resumed else self.log.log)("run_started", **facts)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def run_tasks(self) -> None:
        """Train and evaluate every task that is not done yet.

        Where memory runs out, the run goes back to its last checkpoint and continues with a tighter memory plan.
        """
        while True:
            try:
                if self.spec.parent is not None and not self._checkpoint_files.has_any:
                    self.checkpoints.checkpoint(self._snapshot)  # a checkpoint inside a task needs one before it
                for task in self.stream.tasks[self.progress.tasks_done :]:
                    self.checkpoints.raise_if_stopped()
                    with listening(partial(self.log.work, task.index, len(self.stream.tasks))):
                        self._run_task(task)
                return
            except UnfitError:
                self._checkpoint_files.forget()
            except Exception as error:
                if is_device_lost(error):
                    raise DeviceLost(self.progress.devices[-1], self.progress.tasks_done, error) from error
                if not is_out_of_memory(error):
                    raise
                self._tighten_memory(error)
            self._restart()  # outside of ``except``: the error refers to tensors of the failed step, which must be freed first

    def _run_task(self, task: Task) -> None:
        seed_everything(derive_seed(self.spec.train_seed, "task", task.index))
        data = self._task_data(task)
        with self._precision():
            training = TaskTrainer(task, data, self._context(), self._take_resume_point())
            train_s = training.run()
            trained = time.monotonic()
            data.phase = "statistics"
            self.method.end_task(data)
        ended = time.monotonic()
        if training.is_saved:
            self.checkpoints.raise_if_stopped()
        self._evaluate(task)
        timing = {
            "task": task.index,
            "train_s": train_s,
            "end_s": ended - trained,
            "evaluate_s": time.monotonic() - ended,
        }
        with self._precision():
            self.observer.task_ended()
        self.progress.timings.append(timing)
        self.progress.train_images += data.images_read
        self._update_peak_memory()
        self.log.log("task_evaluated", task=task.index, accuracies=self.progress.matrix[-1])
        self.checkpoints.checkpoint(self._snapshot)

    def _take_resume_point(self) -> Checkpoint | None:
        """The checkpoint inside the first task. It can take half a gigabyte, so the trainer must not keep it alive."""
        found, self._resume_from = self._resume_from, None
        return found

    def _context(self) -> TrainingContext:
        return TrainingContext(
            self.method,
            self.schedule,
            self.device,
            self.observer,
            self.log,
            self.checkpoints,
            self._snapshot,
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
            features=self.features if self.method.needs_query else None,
            feeder=self.feeder,
        )

    def _evaluate(self, task: Task) -> None:
        """Append the accuracies (a row of the matrix) and predictions after ``task``."""
        with self._precision():
            row, predictions = self.evaluator.measure(task)
        progress = self.progress
        if not progress.matrix:  # joint training has one task and measures only the last stage
            missing = self.stream.num_tasks - len(self.stream.tasks)
            progress.matrix.extend([None] * self.stream.num_tasks for _ in range(missing))
            progress.predictions.extend([] for _ in range(missing))
        progress.matrix.append(row)
        progress.predictions.append(predictions)
        progress.test_images += len(predictions)

    def _snapshot(
        self,
        position: Position | None = None,
        training: dict[str, Tensor] | None = None,
        values: dict[str, Any] | None = None,
    ) -> Checkpoint:
        """The current state of the run."""
        self._update_peak_memory()
        return Checkpoint(
            self.method.state_dict(),
            self.progress,
            self.observer.names,
            self.observer.state(),
            position,
            training or {},
            values or {},
            asdict(self.backbone.memory),
            self.log.mark(),
            device=self.device.type,
        )

    def _update_peak_memory(self) -> float:
        self.progress.peak_memory_mb = max(self.progress.peak_memory_mb, self.memory.read_mb())
        self.progress.memory_increase_mib = max(self.progress.memory_increase_mib, self.memory.increase_mb())
        return self.progress.peak_memory_mb

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        return products_in(self.spec.precision, self.device.type)

    # -- out of memory -------------------------------------------------------------------------------------------------

    def _tighten_memory(self, error: Exception) -> None:
        """Set a tighter memory plan of the backbone. Raises OutOfMemoryRun where there is none."""
        self._tried_plans.append(self.backbone.memory)
        tighter = self.backbone.memory.tighter(self.schedule.batch_size)
        if tighter is None:
            raise OutOfMemoryRun(
                str(self.device),
                self.schedule.batch_size,
                self._tried_plans,
                self._update_peak_memory(),
                precision=self.spec.precision,
                task=self.progress.tasks_done,
            ) from error
        self.backbone.memory = tighter

    def _restart(self) -> None:
        """Continue from the last checkpoint, as a new process would."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._restore(self.checkpoints.load())
        self._open_log()
        if self._tried_plans:
            self.log.log("memory_plan", plan=self.backbone.memory.words)

    # -- publication ---------------------------------------------------------------------------------------------------

    def publish(self, started: str) -> None:
        """Publish the record and remove the checkpoints. ``started``: UTC time. Raises UserError, LeaseLost."""
        with self._precision():
            self.observer.run_ended()
        # A resumed process must not publish if its lease was taken over and the run completed.
        self.checkpoints.require_lease()
        self.log.mark()  # the losses of a finished run are durable, too
        kept = self.method if self._keeps else None
        facts = (str(self.device), started, self.flags, kept, self._extendable)
        run = FinishedRun(self.spec, self.stream, self.progress, self.backbone, *facts)
        publish(self.store, run, self.observer, self.checkpoints.require_lease)
        self.log.log("run_finished", faa=final_average_accuracy(self.progress.matrix))
        self._checkpoint_files.forget()
        remove_temporary_files(self.folder)


def run(
    spec: RunSpec, options: RunOptions, context: RunContext, registries: Registries, *, observe: Iterable[str] = ()
) -> None:
    """Train and evaluate ``spec`` and publish its record, resuming from the checkpoint of an earlier attempt of this code.

    ``observe``: names of observations for figures; they change no number. The data must be prepared. A checkpoint is written
    after every task, and inside a task every ``options.checkpoint_every_s`` seconds. ``context.stop_request`` is read after
    every step; ``context.may_publish`` is called before anything is written that another process may have written meanwhile.

    Raises Interrupted once the run is saved, LeaseLost where another process has taken it over, RunDivergedError where the
    loss is not finite, OutOfMemoryRun, UserError where the method has no such observation or the results folder cannot be
    written, and the errors of methods and benchmarks.
    """
    started = provenance.now()
    with torch.random.fork_rng(devices=[]):
        with uncollected():  # the first run imports what its parts need
            made = Trainer(spec, options, context, registries, observe=observe)
        with made as trainer, heap_frozen():  # memory is measured after a collection, several times a task
            trainer.run_tasks()
            trainer.publish(started)
