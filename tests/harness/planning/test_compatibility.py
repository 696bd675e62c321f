"""Combinations that cannot work are refused while planning, with the method's own reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.compatibility import CompatibilityChecker
from smope_bench.harness.registry.registry import Registries
from smope_bench.methods import BUILTIN
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.vit.vit import PromptedViT
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]


class LooksAtValues(Method):
    """A plugin whose constructor needs real numbers."""

    name = "looks"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.scale = float(torch.rand(1))


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_method_is_built_without_storage(name: str, registries: Registries) -> None:
    spec = micro_spec(name)
    CompatibilityChecker().require(
        registries.methods.load(name), spec, registries.backbones.load(spec.backbone.name), 6, 3
    )


def test_a_constructor_that_needs_values_is_left_to_the_run(registries: Registries) -> None:
    spec = micro_spec("looks")
    CompatibilityChecker().require(LooksAtValues, spec, registries.backbones.load(spec.backbone.name), 6, 3)


def test_too_many_blocks_are_refused_once_and_again(registries: Registries) -> None:
    spec = micro_spec("one_prompt", {"prompt_blocks": 9})
    method, backbone = registries.methods.load("one_prompt"), registries.backbones.load(spec.backbone.name)
    with pytest.raises(UserError, match=r"one_prompt cannot run on .* first 9 blocks, but the backbone has 6"):
        CompatibilityChecker().require(method, spec, backbone, 6, 3)


def test_the_plan_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "smoke", "--set", "prompt_blocks=7", "--results", str(tmp_path), "--data", str(tmp_path)]
    assert run_all.main(arguments) == 2
    assert "the backbone has 6; use --set" in capsys.readouterr().err


class WantsNumpy(LooksAtValues):
    """A plugin whose constructor computes with numpy."""

    def __init__(self, *arguments: object) -> None:
        super(LooksAtValues, self).__init__(*arguments)  # type: ignore[arg-type]
        self.largest = torch.rand(4).numpy().max()


class Broken(LooksAtValues):
    """A plugin with a mistake in its constructor."""

    def __init__(self, *arguments: object) -> None:
        super(LooksAtValues, self).__init__(*arguments)  # type: ignore[arg-type]
        raise KeyError("width")


def test_a_constructor_that_computes_with_numpy_is_left_to_the_run(registries: Registries) -> None:
    spec = micro_spec("looks")
    CompatibilityChecker().require(WantsNumpy, spec, registries.backbones.load(spec.backbone.name), 6, 3)


def test_a_mistake_in_a_plugins_constructor_is_said_with_its_place(registries: Registries) -> None:
    spec = micro_spec("looks")
    with pytest.raises(
        UserError, match=r"looks cannot be constructed: .*width.* \(__init__, test_compatibility.py line"
    ):
        CompatibilityChecker().require(Broken, spec, registries.backbones.load(spec.backbone.name), 6, 3)


def test_a_backbone_with_other_settings_is_checked_for_itself(registries: Registries) -> None:
    sizes: list[int] = []

    class ReadsModules(LooksAtValues):
        def __init__(self, config: object, backbone: PromptedViT, setup: object) -> None:
            super(LooksAtValues, self).__init__(config, backbone, setup)  # type: ignore[arg-type]
            sizes.append(len(backbone.vit.state_dict()["pos_embed"][0]))

    checker, spec = CompatibilityChecker(), micro_spec("looks")
    for image_size in (None, 32):
        changed = spec.model_copy(update={"backbone": spec.backbone.model_copy(update={"image_size": image_size})})
        checker.require(ReadsModules, changed, registries.backbone(changed.backbone, Path()), 6, 3)
    assert sizes == [5, 17]
