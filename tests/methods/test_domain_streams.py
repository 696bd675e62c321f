"""Methods on a domain-incremental stream: those that declare it learn, the others are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smope_bench.benchmarks.datasets.glyph_domains import GlyphDomains, GlyphDomainsConfig
from smope_bench.benchmarks.suites import ONE_TASK_A_CLASS, SUITES
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.planner import plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import Seeds, parse_setting
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import open_registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.training.trainer import run
from smope_bench.methods import BUILTIN
from smope_bench.methods.common.alignment.class_stats import ClassStatistics, Covariance
from smope_bench.methods.common.classifier import current_task_loss

CLASSES = 4
SMALL = ("classes=4", "domains=plain,outline", "train_per_class=16", "test_per_class=10")
ABLE = [name for name in BUILTIN if name not in ONE_TASK_A_CLASS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    config = GlyphDomainsConfig.model_validate(
        {name: value for name, _, value in (each.partition("=") for each in SMALL)}
    )
    GlyphDomains(config, root).prepare()
    return root


@pytest.mark.parametrize("name", ABLE)
def test_a_method_learns_classes_that_come_again(name: str, data: Path, tmp_path: Path) -> None:
    settings = [parse_setting(f"benchmark.{each}") for each in SMALL] + [parse_setting("tap.epochs=5")] * (
        name == "smope"
    )
    registries = open_registries()
    selection = Selection(tiny=True, methods=(name,), seeds=(Seeds(0, 0),), settings=tuple(settings))
    planned = plan(["domains"], selection, registries, data)[0]
    assert planned.protocol == "domain" and planned.spec.benchmark.config["tasks"] == 2
    run(planned.spec, RunOptions(tmp_path, data), RunContext(), registries)
    record = Store(tmp_path).load(planned.run_id)
    assert isinstance(record, Record)
    matrix = record.result["accuracy_matrix"]
    assert record.result["domains"] == ["plain", "outline"]
    assert min(matrix[-1]) > 1.6 * 100 / CLASSES
    assert registries.methods.load(name).trains_jointly or None not in matrix[0]


@pytest.mark.parametrize("name", ONE_TASK_A_CLASS)
def test_a_method_that_needs_a_task_a_class_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    registries = open_registries()
    assert registries.methods.load(name).unfit_because
    with pytest.raises(UserError, match=rf"{name} cannot run on glyph_domains, .*domains.*: it \w+.*; leave it out"):
        plan(["domains"], Selection(tiny=True, methods=(name,)), registries, tmp_path)


def test_the_suite_has_every_method_that_declares_domains() -> None:
    registries = open_registries()
    able = {name for name in BUILTIN if "domain" in registries.methods.load(name).protocols}
    assert able == {row.method for row in SUITES["domains"].rows} == set(ABLE)


@pytest.mark.parametrize("kind", ["diag", "full"])
@pytest.mark.parametrize("correction", [0, 1])
def test_statistics_of_a_class_in_parts_are_those_of_all_its_images(kind: Covariance, correction: int) -> None:
    rows, labels = torch.randn(60, 5) * 2 + 3, torch.arange(60) % 4
    labels[:20] %= 3  # class 3 arrives with the second part, class 0 has no image in the third
    labels[40:][labels[40:] == 0] = 1
    whole, parts = (ClassStatistics(4, 5, kind, correction) for _ in range(2))
    whole.collect(range(4), [(rows, labels)])
    for start in (0, 20, 40):
        parts.collect(range(4), [(rows[start : start + 20], labels[start : start + 20])])
    assert parts.count.equal(whole.count) and parts.known(4) == 4
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.covariance, whole.covariance, rtol=1e-5, atol=1e-5)


def test_absent_classes_are_left_out_of_the_loss_and_get_no_gradient() -> None:
    logits = torch.randn(6, 4, requires_grad=True)
    labels, absent = torch.tensor([0, 2, 0, 2, 0, 2]), torch.tensor([1, 3])
    loss = current_task_loss(logits, labels, 0, absent=absent)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits[:, [0, 2]], labels // 2))
    loss.backward()
    assert logits.grad is not None and not logits.grad[:, absent].any() and logits.grad[:, [0, 2]].all()
    every = current_task_loss(logits, labels, 0, mask_old=False, absent=absent)
    torch.testing.assert_close(every, torch.nn.functional.cross_entropy(logits, labels))
