"""Costs: the published convention to its last digit, and counts of small models that can be done by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench import run_all
from smope_bench.harness.cost import report as cost
from smope_bench.harness.cost import stored_counts as cost_counts
from smope_bench.harness.cost.counting.executed import Counters
from smope_bench.harness.cost.counting.flop_counters import (
    dispatched_flops,
    published_classifier,
    published_pass,
    traced_flops,
)
from smope_bench.harness.cost.counting.method_walk import declared, make_method
from smope_bench.harness.cost.report import CLASSES, TASKS, count_costs, geometry_of, published_cost
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry import registry
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.methods import BUILTIN
from smope_bench.methods.common.api import (
    Batch,
    Method,
    MethodCard,
    MethodConfig,
    ParameterGroup,
    Phase,
    PublishedCost,
    TaskInfo,
)
from smope_bench.methods.common.backbone.backbones import MICRO, VIT_B16
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.reports.tables.costs import by_convention, printed_values
from smope_bench.reports.text import whole
from smope_bench.reports.writers.markdown import escape

A_PASS = 33_721_790_208


@pytest.fixture(scope="module")
def vit_b16() -> PromptedViT:
    """ViT-B/16 without values: on the meta device."""
    with torch.device("meta"):
        return PromptedViT(VisionTransformer(**VIT_B16))


@pytest.fixture(scope="module")
def micro() -> Counters:
    return Counters(MICRO.load())


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Registries:
    """The built-in methods, and counts on a micro backbone in place of ViT-B/16."""
    monkeypatch.setattr(cost, "RANDOM_VIT_B16", MICRO)
    return open_registries()


def test_a_package_that_is_broken_is_left_out_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    made = open_registries()
    made.methods.add("broken", "package 'p'", object())
    monkeypatch.setattr(registry, "open_registries", lambda _: made)

    def refuse(_: Registries, names: list[str]) -> None:
        asked.append(names)
        raise UserError("counted")

    monkeypatch.setattr(cost, "count_costs", refuse)
    assert [run_all.main(["cost", *chosen]) for chosen in ([], ["--methods", "broken"])] == [2, 2]
    assert [list(names) for names in asked] == [sorted(BUILTIN), ["broken"]]


def test_a_pass_by_the_published_convention(vit_b16: PromptedViT) -> None:
    assert published_pass(vit_b16) == A_PASS
    assert published_classifier(768, 200) == 307_200


def test_the_rows_are_those_of_table_3(vit_b16: PromptedViT) -> None:
    registries, geometry, printed = open_registries(), geometry_of(vit_b16), printed_values()
    for name in sorted(set(registries.methods.names()) & set(printed)):
        published = published_cost(registries.methods.load(name), geometry, published_pass(vit_b16))
        assert published is not None, f"{name} is in Table 3 but has no published cost"
        row = {"published": {"parameters": published.parameters, "train": published.train, "test": published.test}}
        assert by_convention(row) == printed[name], name


def test_every_method_of_table_3_is_here() -> None:
    assert set(printed_values()) <= set(BUILTIN)


def test_the_document_has_every_method() -> None:
    text = (Path(run_all.__file__).resolve().parent / "docs" / "cost.md").read_text(encoding="utf-8")
    missing = [
        name for name in BUILTIN if text.count(f"| {escape(name)} |") < 3
    ]  # by convention, a step or none, a test
    assert not missing, "write it anew: python run_all.py cost --out docs/cost.md"


def test_the_full_vit_by_torch_is_the_number_of_the_cards(vit_b16: PromptedViT) -> None:
    images = torch.empty(1, 3, 224, 224, device="meta")
    complete = dispatched_flops(lambda: vit_b16.vit(images), backward=False)
    own = dispatched_flops(lambda: vit_b16(images), backward=False)
    assert (complete.forward, complete.backward) == (35_126_120_448, 0)
    saved = 2 * 196 * (768 * 768 + 2 * 768 * 3072 + 768 * 768) + 4 * 196 * 197 * 768
    assert own.forward == complete.forward - saved  # of the last block: queries, output projection, MLP, attention


def test_the_full_vit_by_fvcore_is_the_number_of_the_cards(vit_b16: PromptedViT) -> None:
    with torch.device("meta"):
        vit = VisionTransformer(**VIT_B16)
    vit = vit.to_empty(device="cpu").eval()
    for tensor in vit.state_dict().values():
        tensor.zero_()
    with torch.no_grad():
        traced = traced_flops(vit, torch.zeros(1, 3, 224, 224))
    assert traced.flops == 35_126_120_448
    assert dict(traced.uncounted) == {"aten::add": 25, "aten::gelu": 12, "aten::layer_norm": 25}


class Products(nn.Module):
    """One kind of product at a time, chosen by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.function = PRODUCTS[kind][0]
        self.weight = nn.Parameter(torch.ones(5, 7))

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(rows, self.weight)


# rows: (2, 3, 5); weight: (5, 7)
PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "matmul": (lambda rows, weight: rows @ weight, 2 * 3 * 5 * 7),
    "broadcast on the left": (lambda rows, weight: weight.T @ rows.transpose(1, 2), 2 * 3 * 5 * 7),
    "vector": (lambda rows, weight: rows @ weight[:, 0], 2 * 3 * 5),
    "bmm": (lambda rows, weight: torch.bmm(rows, rows.transpose(1, 2)), 2 * 3 * 3 * 5),
    "addmm": (lambda rows, weight: torch.addmm(weight[0], rows[0], weight), 3 * 5 * 7),
    "einsum": (lambda rows, weight: torch.einsum("bpd,dk->bpk", rows, weight), 2 * 3 * 5 * 7),
    "einsum of three": (
        lambda rows, weight: torch.einsum("bpd,dk,kq->bpq", rows, weight, weight.T @ weight),
        2 * 3 * 5 * 7 + 2 * 3 * 7 * 7 + 7 * 5 * 7,
    ),
    "attention": (
        lambda rows, weight: nn.functional.scaled_dot_product_attention(rows, weight.T, weight.T),
        2 * 3 * 7 * (5 + 5),
    ),
    "element-wise alone": (lambda rows, weight: (rows.softmax(-1) * 2).exp(), 0),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products_count_two_a_multiply_add(kind: str) -> None:
    traced = traced_flops(Products(kind), torch.ones(2, 3, 5))
    assert traced.flops == 2 * PRODUCTS[kind][1]


def test_tracing_leaves_no_hook_and_records_scattered_truth_values() -> None:
    class Scatters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 2, stride=2)

        def forward(self, images: Tensor) -> Tensor:
            rows = self.conv(images).flatten(1)
            return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, rows.topk(1).indices, True)

    module = Scatters()
    assert traced_flops(module, torch.ones(2, 3, 4, 4)).flops == 2 * 2 * 4 * 4 * 3 * 4
    assert not module.conv._forward_hooks and not module.conv._forward_pre_hooks


def test_the_backward_of_a_linear_layer_is_two_products() -> None:
    layer, rows = nn.Linear(5, 7), torch.ones(3, 5, requires_grad=True)
    counted = dispatched_flops(lambda: layer(rows).sum(), backward=True)
    assert (counted.forward, counted.backward) == (2 * 3 * 5 * 7, 2 * 2 * 3 * 5 * 7)


class TrainsByTurns(Method):
    """A tensor for each of the first two tasks, one made anew and larger for every task, and a head in a second phase."""

    name = "by_turns"
    card = MethodCard(title="By turns", summary="for the walk")
    needs_query: ClassVar[bool] = True

    def __init__(self, config: MethodConfig, backbone: PromptedViT, setup: object) -> None:
        super().__init__(config, backbone, setup)  # type: ignore[arg-type]
        self.first, self.second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
        self.head = nn.Parameter(torch.zeros(backbone.feature_dim, 11))
        self.phase = ""

    @classmethod
    def published_cost(cls, geometry: object) -> PublishedCost:
        return PublishedCost(1_000, train_passes=1, test_passes=2, extra_train_flops=5, extra_test_flops=7)

    def begin_task(self, task: TaskInfo) -> None:
        self.grows = nn.Parameter(torch.zeros(task.seen_classes))

    def phases(self) -> list[Phase]:
        return [Phase("warm-up", 1), Phase("main", 1)] if self.task_index == 0 else [Phase("main", 1)]

    def begin_phase(self, phase: Phase) -> None:
        self.phase = phase.name

    def parameter_groups(self) -> list[ParameterGroup]:
        turn = self.first if self.task_index % 2 == 0 else self.second
        trained = [turn] if self.phase == "warm-up" else [turn, self.grows, self.head]
        return [ParameterGroup("all", trained)]

    def training_step(self, batch: Batch) -> Tensor:
        if self.phase == "warm-up":
            return self.first.sum()
        return (batch.features @ self.head).sum() + self.first.sum() + self.second.sum()

    def predict(self, batch: Batch) -> Tensor:
        return self.backbone(batch.images) @ self.head


def test_what_any_phase_of_any_task_trains_counts_once(micro: Counters) -> None:
    method, tasks = make_method(TrainsByTurns, "by_turns", micro.backbone, CLASSES, TASKS)
    found = declared(method, tasks)
    assert found.count == 2 + 3 + CLASSES + 24 * 11
    assert found.tasks_of == {"warm-up": [1], "main": list(range(1, 11))}


def test_phases_are_counted_where_they_are_last_met_with_their_query(registries: Registries) -> None:
    registries.methods.add("by_turns", "a test", TrainsByTurns)
    report = count_costs(registries, ["by_turns"])
    row, own, products = report.rows[0], report.backbone.own, 2 * 24 * 11
    warm_up, main = row.phases
    assert (warm_up.name, warm_up.tasks, warm_up.parameters) == ("warm-up", (1,), 2)
    assert (warm_up.step.forward, warm_up.step.backward, warm_up.step.query) == (0, 0, False)
    assert (main.name, main.tasks[-1], main.parameters) == ("main", 10, 3 + CLASSES + 24 * 11)
    assert main.step.query and main.step.forward == own.forward + products == main.step.forward_by_torch
    assert main.step.backward == products
    assert not row.test.query and row.test.forward == own.forward + products and row.test.backward == 0
    assert row.published is not None
    a_pass, head = report.backbone.published, 2 * 24 * CLASSES
    assert (row.published.train, row.published.test) == (a_pass + head + 5, 2 * a_pass + head + 7)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_both_counters_agree_on_every_method(name: str, registries: Registries) -> None:
    row = count_costs(registries, [name]).rows[0]
    counts = [phase.step for phase in row.phases] + [row.test]
    assert all(count.traced for count in counts)
    # torch's counter does not see distances between few rows, which on a backbone this small are almost 1 %
    assert all(count.forward == pytest.approx(count.forward_by_torch, rel=1e-2) for count in counts)
    assert row.test.forward > 0
    assert bool(row.phases) == (row.parameters > 0)
    assert all(not step.unknown and not step.missing for step in (*(one.step for one in row.phases), row.test))
    kept = json.loads(cost_counts.FILE.read_text(encoding="utf-8"))["micro"].get(name)
    assert kept == cost_counts.counts_of(row), (
        "what plans estimate with is old: python -m smope_bench.harness.cost.stored_counts"
    )


def test_a_probe_runs_the_query_and_its_head(registries: Registries) -> None:
    report = count_costs(registries, ["linear_probe"])
    step, own, head = report.rows[0].phases[0].step, report.backbone.own, 2 * 24 * CLASSES
    assert report.rows[0].parameters == 24 * CLASSES + CLASSES
    assert (step.forward, step.backward, step.query) == (own.forward + head, head, True)


def test_counting_changes_neither_generator_nor_weights(registries: Registries) -> None:
    torch.manual_seed(3)
    count_costs(registries, ["linear_probe"])
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))


def test_a_plugin_that_does_not_run_is_told_in_a_sentence(registries: Registries) -> None:
    class Breaks(TrainsByTurns):
        name = "breaks"

        def predict(self, batch: Batch) -> Tensor:
            raise IndexError("as it should")

    registries.methods.add("breaks", "plugin 'mine.py'", Breaks)
    with pytest.raises(UserError, match=r"'breaks' of plugin 'mine.py' cannot be counted .*IndexError: as it should"):
        count_costs(registries, ["breaks"])


def test_the_command_prints_and_writes(
    registries: Registries, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "cost.md"
    assert run_all.main(["cost", "--methods", "linear_probe,ridge", "--json", "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in report["rows"]] == ["linear_probe", "ridge"]
    assert report["rows"][0]["table3"] == {"computed": {}, "printed": {}}
    assert f"| {escape('linear_probe')} | train | {whole(5000)} | yes |" in out.read_text(encoding="utf-8")
    assert run_all.main(["cost", "--methods", "ridge"]) == 0
    assert "ridge" in capsys.readouterr().out
    assert run_all.main(["cost", "--methods", "ridge", "--out", str(out / "below a file")]) == 2
    assert capsys.readouterr().err.startswith("error: --out")
