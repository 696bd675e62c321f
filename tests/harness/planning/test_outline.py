"""Methods are constructed on a backbone's sizes while planning; what reads more gets the modules, and no check is lost."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smope_bench.harness.cost.counting.flop_counters import plain_published_pass, published_pass
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.compatibility import CompatibilityChecker
from smope_bench.harness.planning.outline import BackboneOutline, Undrawn, plain_sizes
from smope_bench.harness.registry.registry import Registries
from smope_bench.methods import BUILTIN
from smope_bench.methods.common.api import Method, Setup
from smope_bench.methods.common.backbone.backbones import MICRO, RANDOM_VIT_B16, TINY, Backbone, RandomBackbone
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.schedules import Schedule
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]

ODD = RandomBackbone(
    "odd", "", dict(MICRO.architecture) | {"img_size": 40, "embed_dim": 36, "depth": 7, "num_heads": 3}
)


def outline(backbone: Backbone, unknown: list[str] | None = None) -> BackboneOutline:
    """The outline of a plain backbone."""
    sizes = plain_sizes(backbone)
    assert sizes is not None
    return BackboneOutline(sizes, [] if unknown is None else unknown)


def forbid_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make building any skeleton an error."""

    def skeleton(self: Backbone) -> Any:
        raise AssertionError(f"the modules of {self.name} are made")

    monkeypatch.setattr(Backbone, "skeleton", skeleton)


@pytest.mark.parametrize("backbone", [TINY, MICRO, ODD, RANDOM_VIT_B16], ids=lambda one: one.name)
def test_an_outline_has_the_sizes_and_the_published_operations_of_the_modules(backbone: Backbone) -> None:
    skeleton, drawn = backbone.skeleton(), outline(backbone)
    for name in BackboneOutline.KNOWN:
        assert getattr(drawn, name) == getattr(skeleton, name), name
    sizes = plain_sizes(backbone)
    assert sizes is not None
    assert plain_published_pass(sizes) == published_pass(skeleton)
    with pytest.raises(MethodError, match="first 99 blocks"):
        drawn.require_blocks(99, "one")


@pytest.mark.parametrize(
    "changed",
    [{"depth": 0}, {"num_heads": 5}, {"reg_tokens": 4}, {"img_size": (224, 224)}, {"embed_dim": 0}],
    ids=lambda one: next(iter(one)),
)
def test_what_is_not_plain_has_no_outline(changed: dict[str, Any]) -> None:
    assert plain_sizes(replace(MICRO, architecture=dict(MICRO.architecture) | changed)) is None


def test_a_backbone_that_makes_its_own_skeleton_has_no_outline() -> None:
    class Own(RandomBackbone):
        def skeleton(self) -> Any:
            return MICRO.skeleton()

    assert plain_sizes(Own("own", "", MICRO.architecture)) is None


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_method_is_constructed_from_sizes_alike(name: str, registries: Registries) -> None:
    method, unknown = registries.methods.load(name), list[str]()
    spec = micro_spec(name)
    config, setup = method.Config(**spec.method.config), Setup(6, 3, Schedule(**spec.schedule))
    with torch.device("meta"):
        complete = method(config, MICRO.skeleton(), setup)
        with Undrawn():
            drawn = method(config, outline(MICRO, unknown), setup)
    assert unknown == []
    kinds = {key: (value.shape, value.dtype, type(value)) for key, value in complete.state_dict(keep_vars=True).items()}
    assert {
        key: (value.shape, value.dtype, type(value)) for key, value in drawn.state_dict(keep_vars=True).items()
    } == kinds


class Curious(Method):
    """A plugin that reads the modules of the backbone, and would hide that it could not."""

    name = "curious"
    seen: tuple[type, ...] = ()

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        Curious.seen += (type(backbone),)
        blocks = len(getattr(backbone, "blocks", ()))
        if blocks == 6:
            raise MethodError("six blocks are one too many")


def test_a_method_that_reads_more_than_sizes_gets_the_modules(registries: Registries) -> None:
    spec = micro_spec("curious")
    with pytest.raises(UserError, match=r"curious cannot run on .*: six blocks are one too many"):
        CompatibilityChecker().require(Curious, spec, registries.backbones.load(spec.backbone.name), 6, 3)
    assert [kind.__name__ for kind in Curious.seen] == ["BackboneOutline", "PromptedViT"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda one: list(one.parameters()),
        lambda one: one(None),
        vars,
        lambda one: one.to("cpu"),
        lambda one: hasattr(one, "vit"),
        lambda one: setattr(one, "mine", 1),
    ],
)
def test_whatever_else_is_asked_of_an_outline_is_recorded(ask: Any) -> None:
    unknown: list[str] = []
    with contextlib.suppress(AttributeError, TypeError):
        ask(outline(MICRO, unknown))
    assert unknown


def test_a_shallow_backbone_is_refused_by_methods_that_prompt_more_blocks(registries: Registries) -> None:
    shallow = RandomBackbone("shallow", "", dict(MICRO.architecture) | {"depth": 1})
    prompting = registries.methods.load("one_prompt")
    with pytest.raises(UserError, match=r"one_prompt prompts the first . blocks, but the backbone has 1"):
        CompatibilityChecker().require(prompting, micro_spec("one_prompt"), shallow, 6, 3)
    CompatibilityChecker().require(registries.methods.load("ncm"), micro_spec("ncm"), shallow, 6, 3)


def test_a_changed_method_is_checked_again(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = micro_spec("one_prompt")
    method, backbone = registries.methods.load("one_prompt"), registries.backbones.load(spec.backbone.name)
    CompatibilityChecker().require(method, spec, backbone, 6, 3)

    def refuse(*_: Any) -> None:
        raise MethodError("changed")

    monkeypatch.setattr(method, "__init__", refuse)
    with pytest.raises(UserError, match="changed"):
        CompatibilityChecker().require(method, spec, backbone, 6, 3)


def test_table1_is_planned_without_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from smope_bench import run_all

    forbid_modules(monkeypatch)
    assert run_all.main(["plan", "table1", "--data", str(tmp_path), "--results", str(tmp_path)]) == 0
    assert "150 runs" in capsys.readouterr().out


LATE = """
import sys
from pathlib import Path
from PIL import Image
from smope_bench import run_all

def done(*command):
    status = run_all.main([*command, "--data", "data", "--results", "results"])
    heavy = ("timm", "torchvision", "wandb", "torch._dynamo", "avalanche")
    print(status, [name for name in heavy if name in sys.modules])

done("plan", "table1", "--seeds", "0")
done("run", "smoke", "--methods", "ncm", "--benchmarks", "digits", "--seeds", "0", "--limit", "5", "--executor", "serial")
Image.new("RGB", (8, 8)).save("black.png")
done("predict", next(Path("results").glob("*/result.json")).parent.name, "black.png")
"""


def test_what_takes_long_to_import_is_not_imported_for_the_projects_own_backbones(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("0 [")] == ["0 []"] * 3, done.stdout
