"""EASE against the numbers of its card (sections 2 to 7), and its behaviour over tasks (section 13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Setup, TaskInfo, learnable_count
from smope_bench.methods.common.schedules import Schedule, learning_rate
from smope_bench.methods.common.vit.block_adaptation import Adapter
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.ease import EASE, EaseConfig, cosine
from tests.tolerance import printed_tolerance  # pyright: ignore[reportMissingImports]

SGD: dict[str, Any] = {
    "optimizer": "sgd", "sgd_momentum": 0.9, "shape": "epoch_cosine", "epoch_lag": 0, "min_lr": 0.0, "drop_last": False
}  # fmt: skip
PER_TASK = 2


class Data:
    """Fixed images of one task, which must be asked for without augmentation."""

    def __init__(self, task: int, count: int = 8) -> None:
        generator = torch.Generator().manual_seed(task)
        self.images = torch.rand(count, 3, 16, 16, generator=generator)
        self.labels = PER_TASK * task + torch.arange(count) % PER_TASK

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        assert not augment, "prototypes are means of images under the test transform"
        yield Batch(self.images[:5], self.labels[:5])
        yield Batch(self.images[5:], self.labels[5:])


def make(vit: PromptedViT, tasks: int = 3, **config: Any) -> EASE:
    torch.manual_seed(0)
    schedule = Schedule(batch_size=4, epochs=2, lr=0.05, weight_decay=5e-4, **SGD)
    settings: dict[str, Any] = {"bottleneck": 4} | config
    return EASE(EaseConfig(**settings), vit, Setup(PER_TASK * tasks, tasks, schedule))


def enter(method: EASE, index: int) -> None:
    first = PER_TASK * index
    info = TaskInfo(index, range(first, first + PER_TASK), (4,) * PER_TASK)
    method.enter_task(info)
    method.begin_task(info)


def with_query(method: EASE, batch: Batch) -> Batch:
    return Batch(batch.images, batch.labels, lambda: method.backbone.features(batch.images))


def train(method: EASE, index: int, steps: int = 2) -> None:
    """A task: its steps, where it has some, and its prototypes."""
    enter(method, index)
    data = Data(index)
    for _ in method.phases():
        groups = method.parameter_groups()
        declare_trainable(method, groups)
        segment = OptimizationSegment(method.setup.schedule, groups, steps)
        for _ in range(steps):
            segment.set_rate(1)
            segment.descend(method.training_step(Batch(data.images, data.labels)), method)
    given = [with_query(method, batch) for batch in data.batches(augment=False)]
    data.batches = lambda **_: iter(given)  # type: ignore[method-assign]
    method.end_task(data)


def bare(classes: list[int], width: int, **config: Any) -> EASE:
    """A method whose backbone has the width, after as many tasks as there are entries in ``classes``."""
    with torch.device("meta"):
        shell = PromptedViT(VisionTransformer(img_size=8, patch_size=8, embed_dim=width, depth=1, num_heads=1))
    method = EASE(EaseConfig(bottleneck=1, **config), shell, Setup(sum(classes), len(classes), Schedule()))
    for index in range(len(classes)):
        info = TaskInfo(index, range(sum(classes[:index]), sum(classes[: index + 1])), (1,) * classes[index])
        method.enter_task(info)
        method.begin_task(info)
    return method


def close(found: Tensor, expected: list[Any], size: float = 4.0, decimals: int = 7) -> None:
    torch.testing.assert_close(
        found.double(), torch.tensor(expected).double(), rtol=0, atol=printed_tolerance(size, decimals=decimals)
    )


# -- the card's numbers ------------------------------------------------------------------------------------------------


def test_adapter_of_the_card() -> None:
    down, up = torch.tensor([[1.0, 0, -1], [0.5, 0.5, 0.5]]), torch.tensor([[1.0, 2], [0, -1], [3, 1]])
    adapter = Adapter(down, up, torch.tensor([0, 0.25]), torch.tensor([0.1, 0, -0.1]), 0.1)
    tokens = torch.tensor([[2.0, 1, 1], [0, 1, 2], [-1, -1, -1]])
    close(adapter(tokens), [[0.56, -0.225, 0.515], [0.36, -0.175, 0.165], [0.01, 0, -0.01]])


def test_step_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of SGD with momentum and coupled decay on the loss of scaled cosines."""
    method = bare([3], 2, dropout=0)
    method.setup = Setup(3, 1, Schedule(lr=0.025, weight_decay=5e-4, **SGD))
    features = torch.tensor([[3.0, 4], [0, -2]])
    monkeypatch.setattr(PromptedViT, "forward", lambda self, images, adaptations: features)
    with torch.no_grad():
        method.proxies.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, -1]]))
    groups = method.parameter_groups()[1:]
    declare_trainable(method, groups)
    loss = method.training_step(Batch(features, torch.tensor([1, 2])))
    assert loss.item() == pytest.approx(0.6007305, abs=printed_tolerance(1, decimals=7), rel=0)
    segment = OptimizationSegment(method.setup.schedule, groups, 1)
    segment.set_rate(1)
    segment.descend(loss, method)
    assert method.proxy_scale.grad is not None and method.proxies.grad is not None
    close(method.proxy_scale.grad, -0.3130580)  # type: ignore[arg-type]
    close(method.proxies.grad, [[0, 0.0176931], [-0.1489197, 0], [-0.0741771, 0.0741771]])
    close(method.proxy_scale, 1.0078139)  # type: ignore[arg-type]
    close(method.proxies, [[0.9999875, -0.0004423], [0.0037230, 0.9999875], [-0.9981331, -1.0018419]])


GIVEN = [
    [(1, 0), (0, 0), (0, 0)], [(0, 2), (0, 0), (0, 0)], [(1, 1), (0, 1), (0, 0)],
    [(-1, 1), (1, 0), (0, 0)], [(2, 0), (1, 1), (1, 2)], [(0, -1), (0, 3), (3, -1)],
]  # fmt: skip


@pytest.mark.parametrize("recompute", [True, False])
def test_complement_of_the_card(recompute: bool) -> None:
    method = bare([2, 2, 2], 2, recompute=recompute)
    early = [[0.1955703, 0.8044297], [0.5, 0.5]]
    given = torch.tensor(GIVEN).float()
    method.prototypes[:4] = given[:4]
    method._progress.copy_(torch.tensor([2, 4, 1]))
    method._complement()
    close(method.prototypes[:2, 1], early)
    method.prototypes[4:] = given[4:]
    method._progress.copy_(torch.tensor([4, 6, 2]))
    method._complement()
    late = [[0.5146836, 1.2415161], [0.5582696, 0.7617386]]
    close(method.prototypes[:2, 1], late if recompute else early)
    last = [[1.5378829, 1.1931758]] * 2 + [[2.1454084, 0.2818871], [1.6604769, 1.0092846]]
    close(method.prototypes[:4, 2], last)
    true = torch.tensor([[2 >= k // 2 >= j for j in range(3)] for k in range(6)])
    assert torch.equal(method.prototypes[true], given[true]), "true means stay as they are"


PROTOTYPES = [[(1, 0), (1, 1), (0, 2)], [(0, 1), (1, -1), (2, 0)], [(1, 1), (0, 3), (1, 0)], [(2, 1), (1, 0), (-1, 1)]]
FEATURES = [[(3, 4), (1, 0), (0, 1)], [(1, 0), (0, 1), (1, 1)]]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"alpha": 0.1}, [[0.6853554, 0.8353553, 0.0494975, 0.8018281], [1.0707107, 0, 1.0707107, 0.0447214]]),
        ({"alpha": 1}, [[1.4535534, 1.1535534, 0.4949748, 1.6543204], [1.7071068, 0, 1.7071068, 0.4472136]]),
        (
            {"alpha": 0.05, "share_alpha": False},
            [[0.6853554, 0.8353553, 0.0494975, 0.8018281], [1.0707107, 0, 1.0707107, 0.0447214]],
        ),
        (
            {"reweight": False},
            [[0.4364359, 0.3636965, 0.3888889, 0.8164966], [0.7559290, 0.1889822, 0.7216878, 0.3535534]],
        ),
        (
            {"bare_features": True, "beta": 1},
            [[0.6853554, 1.8353553, 0.7566043, 0.0947214], [1.7778175, 0.7071068, 2.0707107, 0.0447214]],
        ),
    ],
)
def test_logits_of_the_card(config: dict[str, Any], expected: list[list[float]]) -> None:
    method = bare([2, 1, 1], 2, **config)
    method.prototypes[:] = torch.tensor(PROTOTYPES).float()
    given = None
    if method.uses_bare:
        method.bare_prototypes[:] = torch.tensor([(1, 0), (0, 1), (1, 1), (1, -1)]).float()
        given = torch.tensor([(0, 2), (1, 1)]).float()
    close(method.logits(torch.tensor(FEATURES).float(), given), expected)


@pytest.mark.parametrize(
    ("lr", "epochs", "expected"),
    [
        (0.025, 20, {0: 0.025, 1: 0.0248461, 2: 0.0243882, 10: 0.0125, 13: 0.00682512, 19: 0.000153896}),
        (0.05, 20, {0: 0.05, 1: 0.0496922, 10: 0.025, 19: 0.000307792}),
        (0.025, 4, {0: 0.025, 1: 0.0213388, 2: 0.0125, 3: 0.0036612}),
    ],
)
def test_rates_of_the_card(lr: float, epochs: int, expected: dict[int, float]) -> None:
    schedule = Schedule(lr=lr, **SGD)
    found = {epoch: learning_rate(schedule, lr, step=7 * epoch, loader_steps=7, epochs=epochs) for epoch in expected}
    assert found == pytest.approx(expected, rel=2e-5)


def test_sizes_of_the_card() -> None:
    with torch.device("meta"):
        vit = PromptedViT(VisionTransformer(num_classes=0))
        method = EASE(EaseConfig(), vit, Setup(200, 10, Schedule()))
        narrow = EASE(EaseConfig(bottleneck=16), vit, Setup(50, 5, Schedule()))
    method._progress = torch.zeros(3, dtype=torch.long)
    adapters, proxies = method.parameter_groups()
    assert learnable_count([adapters]) == 1_189_632
    assert sum(p.numel() for p in method.adapters.parameters()) + method.prototypes.numel() == 13_432_320
    assert sum(p.numel() for p in narrow.adapters[0].parameters()) == 304_320
    assert [tuple(p.shape) for p in proxies.parameters] == [(200, 768), ()]


# -- behaviour over tasks ----------------------------------------------------------------------------------------------


def test_the_feature_starts_as_the_bare_one(micro_vit: PromptedViT) -> None:
    method, images = make(micro_vit), torch.rand(3, 3, 16, 16)
    enter(method, 0)
    assert torch.equal(micro_vit(images, method._adaptations(0)), micro_vit(images))
    assert method.proxy_scale.item() == 1 and 0 < method.proxies[:2].abs().max() <= 24**-0.5
    assert not method.proxies[2:].any() and 0 < method.adapters[0].down.abs().max() <= 24**-0.5  # type: ignore[union-attr]


def test_a_task_moves_its_own_adapters_proxies_and_scale(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    train(method, 0)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    scale = method.proxy_scale.item()
    train(method, 1)
    changed = {name for name, tensor in method.named_parameters() if not torch.equal(tensor, before[name])}
    own = {f"adapters.1.{name}" for name in ("down", "down_bias", "up", "up_bias")}
    assert changed == own | {"proxies", "proxy_scale"} and scale != 1
    assert torch.equal(method.prototypes[:2, 0], before["prototypes"][:2, 0])
    synthesised = method.prototypes[:2, 1].clone()
    train(method, 2)
    assert not torch.equal(method.prototypes[:2, 1], synthesised), "made anew from more classes"
    assert torch.equal(method.adapters[0].down, before["adapters.0.down"])  # type: ignore[union-attr]


def test_prototypes_are_means_in_every_subspace(micro_vit: PromptedViT) -> None:
    method = make(micro_vit)
    for index in range(2):
        train(method, index)
    data = Data(1)
    for task in range(2):
        features = micro_vit(data.images, method._adaptations(task))
        for label in (2, 3):
            torch.testing.assert_close(method.prototypes[label, task], features[data.labels == label].mean(0))
    kept = method.prototypes.clone()
    method.end_task(data)
    assert torch.equal(method.prototypes, kept), "no dropout, no augmentation: the same bits"
    assert not torch.equal(method.training_step(Batch(data.images, data.labels)),
                           method.training_step(Batch(data.images, data.labels)))  # fmt: skip


def test_as_many_passes_as_tasks(micro_vit: PromptedViT, monkeypatch: pytest.MonkeyPatch) -> None:
    method, runs = make(micro_vit), list[int]()
    for index in range(3):
        train(method, index)
    images = torch.rand(9, 3, 16, 16)
    expected = method.predict(Batch(images))
    through = PromptedViT._through
    monkeypatch.setattr(PromptedViT, "_through", lambda *given: (runs.append(1), through(*given))[1])
    found = method.predict(Batch(images))
    assert len(runs) == 3 * micro_vit.depth == method.passes_at_test * micro_vit.depth
    assert torch.equal(found, expected) and found.shape == (9, 6)
    one_by_one = torch.cat([method.predict(Batch(image[None])) for image in images])
    torch.testing.assert_close(one_by_one, found)


def test_forms_of_the_complement_differ_from_three_tasks_on(micro_vit: PromptedViT) -> None:
    methods = [make(micro_vit, recompute=recompute) for recompute in (True, False)]
    for index, alike in enumerate((True, True, False)):
        for method in methods:
            torch.manual_seed(index)
            train(method, index)
        assert torch.equal(methods[0].prototypes, methods[1].prototypes) == alike


def test_adapters_of_the_first_task_alone(micro_vit: PromptedViT) -> None:
    """After it nothing is trained; the answer is that of two blocks of features."""
    method = make(micro_vit, adapters=1)
    assert method.needs_query
    train(method, 0)
    before = {name: p.detach().clone() for name, p in method.named_parameters() if "adapters" in name}
    train(method, 1)
    assert method.phases() == [] and method.passes_at_test == 1
    assert all(torch.equal(p, before[name]) for name, p in method.named_parameters() if name in before)
    images = torch.rand(5, 3, 16, 16)
    rows = torch.cat([micro_vit(images), micro_vit(images, method._adaptations(0))], 1)
    columns = torch.cat([method.bare_prototypes[:4], method.prototypes[:4, 0]], 1)
    torch.testing.assert_close(method.predict(with_query(method, Batch(images))), cosine(rows, columns))


def test_own_subspaces_alone(micro_vit: PromptedViT) -> None:
    method = make(micro_vit, diagonal=True, bare_features=True)
    for index in range(2):
        train(method, index)
    own = torch.tensor([[k // 2 == j for j in range(3)] for k in range(6)])
    own[4:] = False
    assert method.prototypes[own].any(dim=1).all() and not method.prototypes[~own].any()
    assert method.bare_prototypes[:4].any(dim=1).all()
    assert method.predict(with_query(method, Batch(torch.rand(2, 3, 16, 16)))).isfinite().all()
