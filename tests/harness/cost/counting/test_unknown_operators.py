"""Products that a counter does not know: found by the operator's schema, counted by the other counter, and said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from smope_bench.harness.cost import report as cost
from smope_bench.harness.cost.counting.executed import Executed, _an_image
from smope_bench.harness.cost.counting.flop_counters import HANDLES, dispatched_flops, traced_flops
from smope_bench.harness.cost.counting.unknown_operators import beneath, carries_products, in_products
from smope_bench.harness.cost.report import count_costs
from smope_bench.harness.registry.registry import open_registries
from smope_bench.methods.baselines.ncm import Ncm, NcmConfig
from smope_bench.methods.common.api import Batch, MethodCard, Setup
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.reports.writers.terminal import print_costs


class Calls(nn.Module):
    """A function of rows (2, 3, 5) and of layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(rows, *self.layers)


def counted(function: Callable[..., Tensor], *layers: nn.Module) -> Executed:
    module, rows = Calls(function, *layers).eval(), torch.ones(2, 3, 5)
    return _an_image(traced_flops(module, rows), dispatched_flops(lambda: module(rows), backward=False))


# By hand, an image: 3 rows of 5 numbers, two operations a multiply-add.
KNOWN_TO_TORCH: dict[str, tuple[Executed, int]] = {
    "aten::gru": (counted(lambda x, layer: layer(x)[0], nn.GRU(5, 6, batch_first=True)), 2 * 3 * (3 * 6) * (5 + 6)),
    "aten::lstm": (counted(lambda x, layer: layer(x)[0], nn.LSTM(5, 6, batch_first=True)), 2 * 3 * (4 * 6) * (5 + 6)),
    "aten::rnn_tanh": (counted(lambda x, layer: layer(x)[0], nn.RNN(5, 6, batch_first=True)), 2 * 3 * 6 * (5 + 6)),
    "aten::tensordot": (counted(lambda x: torch.tensordot(x, torch.ones(5, 7), 1)), 2 * 3 * 5 * 7),
    "aten::inner": (counted(lambda x: torch.inner(x, torch.ones(7, 5))), 2 * 3 * 5 * 7),
}


@pytest.mark.parametrize("name", KNOWN_TO_TORCH)
def test_what_torch_counts_and_the_trace_does_not_is_taken_and_named(name: str) -> None:
    executed, expected = KNOWN_TO_TORCH[name]
    assert executed.forward == expected
    assert list(executed.unknown) == [name] and executed.missing == {}


@pytest.mark.parametrize(
    ("function", "layers", "unknown", "missing"),
    [
        (lambda x, layer: layer(x, x), (nn.Bilinear(5, 5, 4),), "aten::bilinear", "aten::_trilinear"),
        (
            lambda x: torch.linalg.solve(torch.eye(3).expand(2, 3, 3), x),
            (),
            "aten::linalg_solve",
            "aten::_linalg_solve_ex",
        ),
        (lambda x: torch.addbmm(torch.zeros(3, 3), x, x.mT), (), "aten::addbmm", "aten::addbmm"),
        (lambda x: torch.fft.fft(x).real, (), "aten::fft_fft", "aten::_fft_r2c"),
    ],
)
def test_what_neither_counter_knows_is_named(
    function: Callable[..., Tensor], layers: tuple[nn.Module, ...], unknown: str, missing: str
) -> None:
    executed = counted(function, *layers)
    assert (list(executed.unknown), list(executed.missing)) == ([unknown], [missing])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: torch.cdist(x, x), 2 * 3 * 3 * 5),  # torch's counter does not know what runs beneath it
        (lambda x: torch.einsum("...j,jk->...k", x, torch.ones(5, 7)), 2 * 3 * 5 * 7),
        (lambda x: torch.einsum("bij,bkj", x, x), 2 * 3 * 3 * 5),
        (lambda x: torch.stack([x, x]).sum(0).softmax(-1) + torch.where(x > 0, x, x).sort(-1).values, 0),
        (lambda x: nn.functional.layer_norm(x, (5,)) * x.index_select(1, torch.tensor([0, 1, 2])), 0),
    ],
)
def test_known_products_and_plain_work_are_not_said(function: Callable[..., Tensor], expected: int) -> None:
    executed = counted(function)
    assert (executed.forward, executed.unknown, executed.missing) == (expected, {}, {})


def test_a_function_with_a_gradient_of_its_own_is_not_looked_into() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, rows: Tensor, weight: Tensor) -> Tensor:
            return rows @ weight

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
            return gradients[0], None

    executed = counted(lambda x: Twice.apply(x, torch.ones(5, 7)))
    assert executed.forward == 2 * 3 * 5 * 7


def test_operators_are_judged_by_schema_and_tags() -> None:
    assert all(map(carries_products, ("aten::gru", "aten::bilinear", "aten::linalg_cholesky", "mine::attention")))
    plain = ("aten::add", "aten::topk", "aten::layer_norm", "aten::cat", "aten::index_put_", "aten::cross_entropy_loss")
    assert not any(map(carries_products, (*plain, "prim::ListConstruct", "aten::gelu", "aten::scatter_")))
    assert in_products({"aten::lstm": 2, "aten::add": 9}) == {"aten::lstm": 2}
    assert beneath(["aten::_cdist_forward", "aten::_trilinear", "aten::mm"], HANDLES) == ["aten::_trilinear"]


class ReadsRows(Ncm):
    """Its prediction runs a recurrent layer over the rows of pixels, and a bilinear form."""

    name = "reads_rows"
    card = MethodCard(title="Reads rows", summary="for the count")

    def __init__(self, config: NcmConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        side = backbone.image_size
        self.layer, self.form = nn.GRU(side, 4, batch_first=True), nn.Bilinear(side, side, 2)

    def predict(self, batch: Batch) -> Tensor:
        """The class means' logits, after work that they do not need."""
        rows = batch.images.mean(dim=1)
        return super().predict(batch) + 0 * (self.layer(rows)[0].sum() + self.form(rows, rows).sum())


def test_the_terminal_says_what_a_method_has_beyond_the_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "RANDOM_VIT_B16", MICRO)
    registries = open_registries()
    registries.methods.add("reads_rows", "built-in", ReadsRows)
    counts = count_costs(registries, ["reads_rows", "ncm"])
    rows = {row.method: row for row in counts.rows}
    side = MICRO.image_size
    assert rows["reads_rows"].test.forward_by_torch >= rows["ncm"].test.forward_by_torch + 2 * side * 12 * (side + 4)
    assert rows["reads_rows"].test.forward == rows["reads_rows"].test.forward_by_torch
    console = Console(record=True, width=200)
    print_costs(console, counts.as_json())
    said = " ".join(console.export_text().split())
    assert "Counted in part: reads_rows, test: neither counter knows aten::_trilinear" in said
    assert "aten::bilinear, aten::gru" in said and "ncm, test: " not in said
