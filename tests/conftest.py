"""Parts that tests of several rooms share: a micro backbone, a micro benchmark and registries that know them."""

from __future__ import annotations

import copy
import functools
import gc
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import matplotlib
import pytest
import torch
import typer.main
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from smope_bench import run_all
from smope_bench.harness.cli import command
from smope_bench.harness.cli.command import make_app
from smope_bench.harness.conformance.fixtures import ColouredNoise
from smope_bench.harness.registry import plugins
from smope_bench.harness.registry.registry import Registries, open_registries, uncollected
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from smope_bench.harness.text import program
from smope_bench.methods.common.backbone import backbones
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.vit.vit import PromptedViT

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

LONGEST_FIRST = (
    "test_check",
    "test_kill_sweep",
    "test_power_loss",
    "test_slurm",
    "test_ray_cluster",
    "test_paper_scale",
    "test_resume",
    "test_faults",
    "test_add_a_method",
    "test_safe_path",
    "test_fuzz",
    "test_memory_plan",
    "test_soak",
    "test_device_runs",
    "test_namespace",
    "test_sample_plugin",
    "test_cli",
    "test_privacy",
    "test_launchers",
    "test_metric",
    "test_figure",
    "test_report",
)
"""Files that take long, by name: begun last, one of them would keep a single process busy at the end.

Those that wait for other processes stand beside one that computes all the time.
"""

# The same cases every time, however busy the machine is.
settings.register_profile(
    "deterministic", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("deterministic")

MANY = 30
"""Modules that a test imports: more are a library, fewer are what the test itself is about."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: looking through it again and again takes a third of the time."""
    with uncollected():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Each test process begins with other files: in a new checkout, all would rewrite the assertions of the same file at a time."""
    report = yield
    number, count = os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:], os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    if isinstance(collector, pytest.Directory) and report.passed:
        first = len(report.result) * int(number) // int(count)
        report.result = [*report.result[first:], *report.result[:first]]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then by path; within a file as usual. All test processes must have the same order."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: (places.get(item.path.stem, len(places)), item.path))


def pytest_collection_finish() -> None:
    """Imported modules and collected tests stay: the garbage collector need not look through them in every run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _cached_stays() -> Iterator[None]:
    """What a file's tests cache stays as well: each run would look through all of it (``return_freed``)."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _imported_stays() -> Iterator[None]:
    """So does what a test imports first, as where one file alone is tested: the search takes longer than a small run."""
    imported = len(sys.modules)
    yield
    if len(sys.modules) > imported + MANY:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _threads() -> None:
    """One thread of PyTorch for each test process, or as many as SMOPE_TEST_THREADS gives."""
    torch.set_num_threads(int(os.environ.get("SMOPE_TEST_THREADS", "1")))


@pytest.fixture(scope="session", autouse=True)
def _made_once() -> Iterator[None]:
    """Make once what every call of the command line and every run makes anew, the same each time.

    These are the parser of the command line, the entry points of installed packages, the small backbones (each run gets a
    copy) and matplotlib's list of fonts, which a test with a home folder of its own would make again. Nor does this process
    wait for the disk: a kill loses nothing that was written, and what a power loss leaves is tested in new processes.
    """
    models: dict[object, PromptedViT] = {}
    load_random, load_stored = backbones.RandomBackbone.load, backbones.StoredBackbone.load

    def copy_of(key: object, load: Callable[[], PromptedViT]) -> PromptedViT:
        if key not in models:
            models[key] = load()
        return PromptedViT(cast("VisionTransformer", _copied(models[key].vit)))

    def random(backbone: backbones.RandomBackbone) -> PromptedViT:
        if backbone.image_size > 64:  # too large to be kept
            return load_random(backbone)
        return copy_of(backbone.sha256, lambda: load_random(backbone))

    def stored(backbone: backbones.StoredBackbone) -> PromptedViT:
        backbone.verify()
        return copy_of((backbone.description.read_bytes(), backbone.sha256), lambda: load_stored(backbone))

    with pytest.MonkeyPatch.context() as patch:
        for absent in (torch.cuda, torch.xpu, torch.mtia):
            if not absent.is_available():  # a seed for it would be kept until it comes, with the stack that set it
                patch.setattr(absent, "manual_seed_all", lambda seed: None, raising=False)
        patch.setattr(os, "fsync", lambda descriptor: None)
        points = functools.cache(lambda path, group: importlib.metadata.entry_points(group=group))
        installed = lambda *, group: points(tuple(sys.path), group)  # noqa: E731
        apps = functools.cache(lambda default, *_: make_app(default))

        def app(default: Callable[..., None]) -> typer.Typer:
            if plugins.entry_points is not installed:  # a test has commands of its own
                return make_app(default)
            return apps(default, program(), *command._path(command.ROOM), *sys.path)

        patch.setattr(plugins, "entry_points", installed)
        patch.setattr(run_all, "make_app", app)
        patch.setattr(typer.main, "get_command", functools.lru_cache(maxsize=8)(typer.main.get_command))
        patch.setattr(backbones.RandomBackbone, "load", random)
        patch.setattr(backbones.StoredBackbone, "load", stored)
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or matplotlib.get_cachedir())
        yield


def _copied(module: nn.Module) -> nn.Module:
    """A module with tensors of its own; its other attributes are the same objects. ``deepcopy`` takes longer than a small run."""
    own: dict[str, object] = {key: value.copy() for key, value in vars(module).items() if isinstance(value, dict)}
    own["_parameters"] = {
        name: None if weight is None else nn.Parameter(weight.detach().clone(), weight.requires_grad)
        for name, weight in module._parameters.items()
    }
    own["_buffers"] = {name: None if each is None else each.clone() for name, each in module._buffers.items()}
    own["_modules"] = {name: None if child is None else _copied(child) for name, child in module._modules.items()}
    made = copy.copy(module)
    vars(made).update(own)
    return made


@pytest.fixture(scope="session")
def layouts() -> ModuleType:
    """``tests/benchmarks/layouts.py``: small archives in the original layouts. Tests are in no package to import it from."""
    spec = importlib.util.spec_from_file_location("layouts", Path(__file__).parent / "benchmarks" / "layouts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def micro_vit() -> PromptedViT:
    return MICRO.load()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that frozen backbones were shown, pass by pass."""
    shown: list[int] = []
    original = PromptedViT.features

    def features(self: PromptedViT, images: Tensor) -> Tensor:
        shown.append(len(images))
        return original(self, images)

    monkeypatch.setattr(PromptedViT, "features", features)
    return shown


@pytest.fixture
def registries() -> Registries:
    made = open_registries()
    made.backbones.add(MICRO.name, "tests", MICRO)
    made.benchmarks.add(ColouredNoise.name, "tests", ColouredNoise)
    return made


def micro_spec(method: str, config: dict[str, object] | None = None, **changes: object) -> RunSpec:
    """A run of a few steps on coloured noise in three tasks."""
    schedule: dict[str, object] = {"batch_size": 8, "epochs": 2, "lr": 0.01}
    return RunSpec(
        method=Component(name=method, config=config or {}),
        benchmark=Component(name=ColouredNoise.name, config={"tasks": 3, "image_size": 16}),
        backbone=BackboneRef(name=MICRO.name, sha256=MICRO.sha256),
        schedule=schedule,
        **changes,  # type: ignore[arg-type]
    )
