"""RanPAC against independent computations in numpy and scikit-learn, and its behaviour over tasks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge as SklearnRidge
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training import trainer as engine
from smope_bench.methods.common.alignment.ridge import RidgeMoments, choose_penalty, resolvable
from smope_bench.methods.common.api import Batch, Setup, TaskInfo, learnable_count
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.ranpac import LARGEST, PENALTIES, RanPAC, RanPACConfig
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]
from tests.methods.task_data import Data  # pyright: ignore[reportMissingImports]

SETUP = Setup(6, 3, Schedule(batch_size=4, epochs=2))


def make(vit: PromptedViT, **config: Any) -> RanPAC:
    torch.manual_seed(0)
    return RanPAC(RanPACConfig.model_validate({"projection": 80} | config), vit, SETUP)


def gaussians(count: int = 120) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 6
    return torch.randn(6, 24, generator=generator)[labels] + torch.randn(count, 24, generator=generator), labels


def learn(method: RanPAC, features: Tensor, labels: Tensor, index: int) -> Data:
    classes = range(2 * index, 2 * index + 2)
    task = TaskInfo(index, classes, (20, 20))
    method.enter_task(task)
    method.begin_task(task)
    assert method.phases() == [] and method.parameter_groups() == []
    mine = (labels >= classes.start) & (labels < classes.stop)
    parts = zip(features[mine].split(7), labels[mine].split(7), strict=True)
    data = Data([Batch(torch.zeros(len(y), 3, 16, 16), y, x) for x, y in parts])
    method.end_task(data)
    return data


def best_by_trial(rows: np.ndarray, labels: np.ndarray) -> float:
    """The penalty chosen the long way round: one direct solution for each candidate on the first four fifths."""
    one_hot, cut = np.eye(6)[labels], int(len(rows) * 0.8)
    losses = []
    for strength in 10.0 ** np.arange(-8, 9):
        gram = rows[:cut].T @ rows[:cut] + strength * np.eye(rows.shape[1])
        weight = np.linalg.solve(gram, rows[:cut].T @ one_hot[:cut])
        losses.append(((rows[cut:] @ weight - one_hot[cut:]) ** 2).mean())
    return float(10.0 ** (np.argmin(losses) - 8.0))


@pytest.mark.parametrize("size", [20, 80])
def test_three_tasks_equal_numpy_and_sklearn_on_everything(micro_vit: PromptedViT, size: int) -> None:
    """Fewer random features than images a task, and more: the penalty's search takes another way in each."""
    method = make(micro_vit, projection=size)
    features, labels = gaussians()
    for index in range(3):
        data = learn(method, features, labels, index)
        assert data.asked == [(True, False, False)]
    generator = torch.Generator().manual_seed(int(method.seed))
    matrix = torch.randn(24, size, generator=generator).numpy()
    rows = np.maximum(features.numpy() @ matrix, 0).astype(np.float64)
    last = labels.numpy() >= 4
    assert float(method.penalty) == pytest.approx(best_by_trial(rows[last], labels.numpy()[last]))
    reference = SklearnRidge(alpha=float(method.penalty), fit_intercept=False).fit(rows, np.eye(6)[labels.numpy()])
    queries = torch.randn(30, 24)
    found = method.predict(Batch(torch.zeros(30, 3, 16, 16), None, queries))
    expected = reference.predict(np.maximum(queries.numpy() @ matrix, 0).astype(np.float64))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


def test_what_is_seen_grows_with_the_tasks(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    features, labels = gaussians()
    for index in range(3):
        learn(method, features, labels, index)
        logits = method.predict(Batch(torch.zeros(120, 3, 16, 16), None, features))
        assert logits.shape == (120, 2 * index + 2)
        seen = labels < 2 * index + 2
        assert (logits.argmax(dim=1) == labels)[seen].float().mean() > 0.9


@pytest.mark.parametrize(("images", "width"), [(40, 90), (90, 40), (300, 30)])
@pytest.mark.parametrize("noise", [0.1, 1.0, 5.0])
def test_one_decomposition_chooses_what_seventeen_solutions_choose(images: int, width: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(images)
    labels = torch.randint(6, (images,), generator=generator)
    rows = torch.relu(torch.eye(6, width)[labels] + noise * torch.randn(images, width, generator=generator))
    assert choose_penalty(rows, labels, PENALTIES) == pytest.approx(
        best_by_trial(rows.double().numpy(), labels.numpy())
    )


@pytest.mark.parametrize("images", [1, 2, 5])
def test_very_few_images(micro_vit: PromptedViT, images: int) -> None:
    method = make(micro_vit)
    method.enter_task(TaskInfo(0, range(2), (images, 0)))
    same = torch.ones(images, 24)
    method.end_task(Data([Batch(torch.zeros(images, 3, 16, 16), torch.zeros(images, dtype=torch.long), same)]))
    logits = method.predict(Batch(torch.zeros(1, 3, 16, 16), None, same[:1]))
    assert logits.isfinite().all() and logits.argmax() == 0


def test_rank_deficient_moments_are_solved() -> None:
    moments = RidgeMoments(50, 2)
    rows = torch.rand(3, 50).repeat(4, 1) * 1e4
    moments.add(rows, torch.arange(12) % 3 % 2)
    weight = moments.solve(1e-8, 2)
    assert weight.isfinite().all()
    np.testing.assert_allclose((rows.double() @ weight)[:3].numpy(), np.eye(2)[[0, 1, 0]], atol=1e-3)
    floor = resolvable(torch.tensor(0.0, dtype=torch.double), moments.gram.trace())
    assert 0 < floor / moments.gram.trace() < 1e-14


def test_projection_follows_the_seed_and_stays_out_of_the_checkpoint(micro_vit: PromptedViT) -> None:
    one, other = make(micro_vit), RanPAC(RanPACConfig(projection=80), micro_vit, SETUP)
    device = torch.device("cpu")
    assert not torch.equal(one.projection(device), other.projection(device))
    assert (24, 80) not in {tuple(tensor.shape) for tensor in one.state_dict().values()}
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.projection(device), other.projection(device))


def test_default_size_follows_the_backbone(micro_vit: PromptedViT) -> None:
    assert RanPAC(RanPACConfig(), micro_vit, SETUP).size == round(24 * 10_000 / 768)
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(num_classes=0))
        assert RanPAC(RanPACConfig(), vit, Setup(200, 10, Schedule())).size == 10_000
        tuned = RanPAC(RanPACConfig(first_task_tuning=True), vit, Setup(200, 10, Schedule()))
    assert learnable_count(tuned.parameter_groups()) == 2 * 6 * 25 * 768 + 200 * 769


@pytest.mark.parametrize("size", [-1, 0, 1, LARGEST + 1])
def test_silly_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValidationError, match=f"projection={size} would keep .* use 2 to {LARGEST}"):
        RanPACConfig(projection=size)


def test_fewer_features_than_classes_are_refused(micro_vit: PromptedViT) -> None:
    with pytest.raises(MethodError, match="5 random features cannot tell 6 classes apart"):
        make(micro_vit, projection=5)
    with pytest.raises(MethodError, match="the backbone has 6"):
        make(micro_vit, first_task_tuning=True, prompt_blocks=7)


# -- tuning on the first task, through the engine ----------------------------------------------------------------------


def finished(config: dict[str, object], registries: Registries, folder: Path) -> tuple[Record, list[dict[str, Any]]]:
    if RanPAC.name not in registries.methods.names():
        registries.methods.add(RanPAC.name, "tests", RanPAC)
    spec, events = micro_spec("ranpac", config), []
    engine.run(spec, *given(folder, on_event=events.append), registries=registries)
    record = Store(folder).load(spec.run_id)
    assert isinstance(record, Record)
    return record, events


def test_phases_only_in_the_first_task(registries: Registries, tmp_path: Path) -> None:
    record, events = finished({"first_task_tuning": True, "length": 3}, registries, tmp_path)
    epochs = [(event["task"], event["phase"]) for event in events if event["event"] == "epoch"]
    assert epochs == [(0, "tune"), (0, "tune")]
    assert record.result["costs"]["learnable_parameters"] == 2 * 6 * 3 * 24 + 6 * 25
    frozen, events = finished({}, registries, tmp_path)
    assert not [event for event in events if event["event"] == "epoch"]
    assert frozen.result["costs"]["learnable_parameters"] == 0
    assert all(math.isfinite(value) for value in frozen.result["accuracy_matrix"][-1])


def test_tuned_prefix_is_what_the_ridge_reads(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, first_task_tuning=True, length=3)
    assert not method.needs_query
    method.enter_task(TaskInfo(0, range(2), (2, 2)))
    assert [phase.epochs for phase in method.phases()] == [2]
    images = Batch(torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]))
    method.training_step(images).backward()
    assert method.prefix_keys.grad is not None and method.head.weight.grad is not None
    assert method.head.weight.grad[2:].eq(0).all()
    method.end_task(Data([images]))
    before = method.predict(images)
    with torch.no_grad():
        method.head.weight.zero_()
    assert torch.equal(method.predict(images), before)
    with torch.no_grad():
        method.prefix_values.add_(1)
    assert not torch.equal(method.predict(images), before)
    method.enter_task(TaskInfo(1, range(2, 4), (2, 2)))
    assert method.phases() == []
