"""Our views as Avalanche datasets. Importing this module imports Avalanche, which takes seconds: see ``bridge``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from avalanche.benchmarks.scenarios import DatasetExperience, with_classes_timeline, with_task_labels
from avalanche.benchmarks.scenarios.generic_scenario import CLScenario, EagerCLStream
from avalanche.benchmarks.utils import DataAttribute, TaskLabels
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.flat_data import ConstantSequence
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from torch import Generator, Tensor
from torch.utils.data import Dataset, get_worker_info

from smope_bench.benchmarks.stream import Stream, View
from smope_bench.benchmarks.transforms.batch import Transforms

ROWS = "rows"


class Source(Dataset[tuple[Any, int]]):
    """A view as items (stored image as a batch of one, label), before any transform."""

    def __init__(self, view: View) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        raw, labels = self.view.take([position])
        return raw, int(labels[0])


class Look:
    """Transform of stored images to the network's input: the test transform, or augmentation with a ``seed``.

    Augmentation draws from a generator of its own, never from torch's. A loader's worker has another one, made of
    ``seed`` and the worker's own seed, so that workers and epochs draw different numbers.
    """

    def __init__(self, transforms: Transforms, seed: str | None = None) -> None:
        self._transforms = transforms
        self._seed = seed
        self._generator: Generator | None = None
        self._worker: int | None = None

    def __call__(self, raw: Any) -> Tensor:
        """Float (3, S, S) of one stored image."""
        return self.batch(raw)[0]

    def batch(self, raw: Any) -> Tensor:
        """Float (B, 3, S, S) of stored images."""
        if self._seed is None:
            return self._transforms.test(raw)
        return self._transforms.train(raw, self._own_generator(self._seed))

    def _own_generator(self, seed: str) -> Generator:
        info = get_worker_info()
        worker = None if info is None else info.seed
        if self._generator is None or worker != self._worker:
            self._worker = worker
            digest = hashlib.sha256(f"{seed} worker {worker}".encode()).digest()
            self._generator = Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return self._generator


class ViewDataset(TaskAwareSupervisedClassificationDataset):
    """An Avalanche dataset of our images that reads a whole batch at once if the loader requests batches."""

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of some indices, with one read and one transform for all."""
        flat = self._flat_data
        items = _batch(flat, indices, flat._transform_groups.current_group)
        for attribute in self._data_attributes.values():
            if attribute.use_in_getitem:
                for item, index in zip(items, indices, strict=True):
                    item.append(attribute[index])
        return items


def _batch(flat: Any, indices: Sequence[int], group: str) -> list[list[Any]]:
    """Items of Avalanche's tree of subsets and concatenations, as one batch if they are of one view with one transform."""
    found = _located(flat, indices, group)
    if found is None:
        return [list(flat._getitem_recursive_call(index, group)) for index in indices]
    source, positions, look = found
    raw, labels = source.view.take(positions)
    return [list(item) for item in zip(look.batch(raw), labels.tolist(), strict=True)]


def _located(flat: Any, indices: Sequence[int], group: str) -> tuple[Source, list[int], Look] | None:
    """Follow nested subsets down to a view; None where they join datasets or have another transform."""
    looks: list[Any] = []
    positions = list(indices)
    while hasattr(flat, "_get_idx"):
        if len(flat._datasets) != 1:
            return None
        looks += _steps(flat._frozen_transform_groups, group) + _steps(flat._transform_groups, group)
        positions = [flat._get_idx(position)[1] for position in positions]
        flat = flat._datasets[0]
    if isinstance(flat, Source) and len(looks) == 1 and isinstance(looks[0], Look):
        return flat, positions, looks[0]
    return None


def _steps(groups: Any, group: str) -> list[Any]:
    """The transforms of a group; a transform of unknown kind is returned itself."""
    transform = groups.transform_groups[group]
    return [] if transform is None else list(getattr(transform, "transforms", [transform]))


def dataset_of(view: View, train: Look, test: Look) -> ViewDataset:
    """Items (float (3, S, S), new label, task label 0); the attribute ``rows`` holds the view's rows."""
    return ViewDataset(
        [Source(view)],
        data_attributes=[
            DataAttribute(view.labels.tolist(), "targets"),
            TaskLabels(ConstantSequence(0, len(view))),
            DataAttribute(view.rows.tolist(), ROWS),
        ],
        transform_groups=TransformGroups({"train": train, "eval": test}),
    )


def scenario_of(stream: Stream, *, augment: bool, seed: int, task_labels: bool) -> CLScenario:
    """The streams ``train``, ``valid`` (where images are held out) and ``test``, with their classes' timeline."""
    transforms = stream.transforms
    test = Look(transforms)
    trains = [
        Look(transforms, f"avalanche {seed} task {task.index}") if augment and not transforms.is_deterministic else test
        for task in stream.tasks
    ]
    parts = {"train": [dataset_of(task.train, train, test) for task, train in zip(stream.tasks, trains, strict=True)]}
    if any(len(task.validation) for task in stream.tasks):
        parts["valid"] = [dataset_of(task.validation, test, test) for task in stream.tasks]
    parts["test"] = [dataset_of(view, test, test) for view in stream.tests]
    streams = [
        EagerCLStream(name, [DatasetExperience(dataset=dataset) for dataset in datasets])
        for name, datasets in parts.items()
    ]
    scenario: Any = with_classes_timeline(CLScenario(streams))
    if task_labels:
        scenario = with_task_labels(scenario)
    # Attributes that scripts for Avalanche's own benchmarks use.
    scenario.n_classes = stream.num_classes
    scenario.n_experiences = len(stream.tasks)
    scenario.class_names = stream.class_names
    return scenario
