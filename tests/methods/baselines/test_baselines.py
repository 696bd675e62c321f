"""Floors and ceilings against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from smope_bench.methods.baselines.joint import Joint
from smope_bench.methods.baselines.linear_probe import LinearProbe, LinearProbeConfig
from smope_bench.methods.baselines.ncm import Ncm, NcmConfig
from smope_bench.methods.baselines.one_prompt import OnePrompt, OnePromptConfig
from smope_bench.methods.baselines.ridge import Ridge, RidgeConfig
from smope_bench.methods.common.api import Batch, Setup, TaskInfo
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from tests.methods.test_smope import Data  # pyright: ignore[reportMissingImports]

SETUP = Setup(6, 3, Schedule(batch_size=4, epochs=2))


def learned(method: Ncm | Ridge, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(6, 24, generator=generator) * 2
    labels = torch.arange(60) % 6
    values = centres[labels] + torch.randn(60, 24, generator=generator)
    for index in range(3):
        classes = range(2 * index, 2 * index + 2)
        method.enter_task(TaskInfo(index, classes, (10, 10)))
        mine = (labels >= classes.start) & (labels < classes.stop)
        parts = zip(values[mine].split(7), labels[mine].split(7), strict=True)
        method.fit_task(Data([Batch(torch.zeros(len(y), 3, 16, 16), y, x) for x, y in parts]))  # type: ignore[arg-type]
    return values, labels


def test_ncm_is_the_nearest_centroid(micro_vit: PromptedViT) -> None:
    method = Ncm(NcmConfig(), micro_vit, SETUP)
    values, labels = learned(method)
    queries = torch.randn(50, 24) * 2
    expected = NearestCentroid().fit(values.numpy(), labels.numpy()).predict(queries.numpy())
    found = method.predict(Batch(torch.zeros(50, 3, 16, 16), None, queries)).argmax(dim=1)
    assert found.tolist() == expected.tolist()


def test_ncm_cosine_ignores_length(micro_vit: PromptedViT) -> None:
    method = Ncm(NcmConfig(metric="cosine"), micro_vit, SETUP)
    learned(method)
    queries, images = torch.randn(9, 24), torch.zeros(9, 3, 16, 16)
    near = method.predict(Batch(images, None, queries))
    torch.testing.assert_close(near, method.predict(Batch(images, None, queries * 7)))
    assert near.abs().max() <= 1 + 1e-6


def test_ridge_solved_task_by_task_is_sklearns_on_everything(micro_vit: PromptedViT) -> None:
    method = Ridge(RidgeConfig(penalty=0.05), micro_vit, SETUP)
    values, labels = learned(method)
    x = values.numpy().astype(np.float64)
    strength = 0.05 * (x**2).sum(axis=0).mean()
    centre = x.mean(axis=0)
    reference = SklearnRidge(alpha=strength).fit(x - centre, np.eye(6)[labels.numpy()])
    found = method.predict(Batch(torch.zeros(60, 3, 16, 16), None, values)).numpy()
    np.testing.assert_allclose(found, reference.predict(x - centre), atol=1e-4)


def test_linear_probe_reads_only_the_frozen_query(micro_vit: PromptedViT) -> None:
    torch.manual_seed(0)
    method = LinearProbe(LinearProbeConfig(), micro_vit, SETUP)
    method.enter_task(TaskInfo(0, range(2), (2, 2)))
    query = torch.randn(4, 24)
    first = method.training_step(Batch(torch.zeros(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]), query))
    second = method.training_step(Batch(torch.ones(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]), query))
    assert first.item() == second.item()
    with pytest.raises(RuntimeError, match="needs_query"):
        method.predict(Batch(torch.zeros(4, 3, 16, 16)))


def test_one_prompt_equals_sparse_experts_without_any_part(micro_vit: PromptedViT) -> None:
    """The first row of the ablation is the floor: same weights, same logits."""
    from smope_bench.methods.smope import SMoPE, SMoPEConfig

    torch.manual_seed(0)
    floor = OnePrompt(OnePromptConfig(length=4), micro_vit, SETUP)
    config = SMoPEConfig(experts=4, top_k=0, score_agg="per_token", alpha_proto=0, alpha_router=0, dense_start=False)
    stripped = SMoPE(config, micro_vit, SETUP)
    stripped.prefix_keys.data.copy_(floor.prefix_keys.data)
    stripped.prefix_values.data.copy_(floor.prefix_values.data)
    stripped.head.load_state_dict(floor.head.state_dict())
    for method in (floor, stripped):
        method.enter_task(TaskInfo(0, range(2), (2, 2)))
    images = Batch(torch.rand(5, 3, 16, 16), torch.tensor([0, 1, 0, 1, 1]))
    torch.testing.assert_close(floor.predict(images), stripped.predict(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(floor.training_step(images), stripped.training_step(images), atol=1e-6, rtol=0)


def test_joint_differs_from_one_prompt_only_in_what_it_is_given() -> None:
    assert Joint.trains_jointly and not OnePrompt.trains_jointly
    assert Joint.training_step is OnePrompt.training_step and Joint.predict is OnePrompt.predict
