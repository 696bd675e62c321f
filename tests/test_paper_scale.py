"""The real benchmarks end to end: archives in the original layouts through ``data prepare``, ``data verify``, a run and a report.

Two images a class, on random weights of a small ViT/16: Fashion-MNIST at its full 224 pixels, with training; the three
large ones at 64 pixels and in fewer tasks, which is the same code on a tenth of the tokens.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from smope_bench import run_all
from smope_bench.benchmarks.datasets.published import cifar100, cub200, fashion_mnist, imagenet_r
from smope_bench.benchmarks.suites import SUITES, Column, Row, Suite
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.methods.common.backbone import backbones

SUITE = "paper_scale"
PLUGIN = """
    from smope_bench.methods.baselines.ncm import Ncm
    from smope_bench.methods.baselines.one_prompt import OnePrompt

    class Means(Ncm):
        '''Known parts refuse combinations without a recipe, which random weights have none of: hence the new name.'''
        name = "means"

    class Trained(OnePrompt):
        name = "trained"
"""
RUN = ["--workers", "1", "--threads", "2", "--device", "cpu", "--plugin", "mine.py"]

Sizes = tuple[int, int, int]
"""Classes, tasks and test images."""


def _cifar100(layouts: ModuleType, web: Path) -> type:
    return layouts.cifar100_over(cifar100.Cifar100, web, layouts.cifar100())


def _imagenet_r(layouts: ModuleType, web: Path) -> type:
    wnids = imagenet_r.listed_wnids()
    return layouts.imagenet_r_over(imagenet_r.ImageNetR, web, layouts.imagenet_r(wnids), wnids)


def _cub200(layouts: ModuleType, web: Path) -> type:
    return layouts.cub200_over(cub200.Cub200, web, layouts.cub200())


def _fashion_mnist(layouts: ModuleType, web: Path) -> type:
    return layouts.fashion_mnist_over(fashion_mnist.FashionMnist, web, layouts.fashion_mnist())


KNOWN = ("remotes", "digests", "contents", "image_count", "packaged")
FIXTURES: dict[str, tuple[type, Callable[[ModuleType, Path], type], Sizes]] = {
    "cifar100": (cifar100.Cifar100, _cifar100, (100, 2, 100)),
    "imagenet_r": (imagenet_r.ImageNetR, _imagenet_r, (200, 2, 200)),
    "cub200": (cub200.Cub200, _cub200, (200, 2, 200)),
    "fashion_mnist": (fashion_mnist.FashionMnist, _fashion_mnist, (10, 5, 10)),
}


@pytest.fixture
def at_work(layouts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a benchmark, under its own name, expect its fixture archive; stand in an empty folder."""

    def start(name: str) -> None:
        kind, fixture, _ = FIXTURES[name]
        over = fixture(layouts, tmp_path / "web")
        for attribute in KNOWN:
            if hasattr(kind, attribute):
                monkeypatch.setattr(kind, attribute, getattr(over, attribute))
        (tmp_path / "mine.py").write_text(textwrap.dedent(PLUGIN), "utf-8")
        monkeypatch.chdir(tmp_path)

    return start


def main(*arguments: str) -> None:
    assert run_all.main(list(arguments)) == 0


def ready(name: str, capsys: pytest.CaptureFixture[str], *settings: str) -> None:
    """Prepare a benchmark and read it through; the second time nothing is made anew."""
    classes, _, tested = FIXTURES[name][2]
    for _ in range(2):
        main("data", "prepare", name, *settings)
        assert f"{classes} train images, {tested} test images" in capsys.readouterr().out
    caches = sorted(path for path in (Path("data") / name).iterdir() if path.name != "downloads")
    main("data", "verify", name)
    said = capsys.readouterr().out
    assert len(caches) == 1 and str(caches[0]) in said and "intact" in said and "✗" not in said


def planned(monkeypatch: pytest.MonkeyPatch, name: str, method: str, **config: object) -> None:
    """A suite of one run."""
    row, column = Row("A method", method), Column(name, name, config, "random")
    monkeypatch.setitem(SUITES, SUITE, Suite(SUITE, "Paper scale", "one run", (row,), (), (column,), (0,)))


def the_record(name: str) -> Mapping[str, Any]:
    """The record of the one run, with what it must say whatever was run."""
    (record,) = Store(Path("results")).scan()
    result = cast(Record, record).result
    classes, tasks, _ = FIXTURES[name][2]
    assert result["spec"]["benchmark"]["name"] == name and result["spec"]["backbone"]["name"] == "random"
    order = list(range(classes))
    random.Random(0).shuffle(order)
    assert tuple(result["class_order"]) == tuple(order)
    assert [len(row) for row in result["accuracy_matrix"]] == [tasks] * tasks
    return result


def reported(capsys: pytest.CaptureFixture[str], name: str) -> None:
    capsys.readouterr()
    main("report", SUITE)
    assert "A method" in capsys.readouterr().out
    assert name in (Path("report") / "index.html").read_text("utf-8")


def small(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Half of the blocks, enough for every recipe, each a sixteenth as wide: the same code in a fraction of the time."""
    architecture = {**backbones.VIT_B16, "depth": 6, "embed_dim": 48, "num_heads": 3, **changes}
    monkeypatch.setattr(backbones, "RANDOM_VIT_B16", replace(backbones.RANDOM_VIT_B16, architecture=architecture))


@pytest.mark.parametrize("name", ["cifar100", "imagenet_r", "cub200"])
def test_prepare_verify_run_report(
    name: str, at_work: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_work(name)
    small(monkeypatch, img_size=64)
    planned(monkeypatch, name, "means", image_size=64, tasks=FIXTURES[name][2][1])
    ready(name, capsys, "--set", "benchmark.image_size=64")
    main("run", SUITE, *RUN)
    the_record(name)
    reported(capsys, name)


def test_fashion_mnist_at_its_full_size(
    at_work: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_work("fashion_mnist")
    small(monkeypatch)
    planned(monkeypatch, "fashion_mnist", "trained")
    ready("fashion_mnist", capsys)
    main("run", SUITE, *RUN, "--set", "schedule.epochs=1")
    spec = the_record("fashion_mnist")["spec"]
    assert spec["benchmark"]["config"]["image_size"] == 224 and spec["benchmark"]["config"]["tasks"] == 5
    reported(capsys, "fashion_mnist")
