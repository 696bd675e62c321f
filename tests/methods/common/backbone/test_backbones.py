"""Weights are the ones that were pinned, or they are refused by name; nothing is silently random."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from smope_bench.methods.common.backbone.backbones import (
    BUILTIN,
    RANDOM_VIT_B16,
    TINY,
    TINY_COLOUR,
    RandomBackbone,
    StoredBackbone,
)
from smope_bench.methods.common.errors import MethodError

SHAPE: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 6,
    "num_heads": 2,
    "num_classes": 0,
}


def stored(folder: Path, **changes: Any) -> StoredBackbone:
    """A backbone in the committed layout: half-precision tensors under timm's names."""
    vit = RandomBackbone("micro", "", SHAPE).load().vit
    tensors = {name: tensor.half() for name, tensor in vit.state_dict().items()}
    data = changes.pop("data", save(tensors))
    (folder / "vit.safetensors").write_bytes(data)
    described = {"architecture": SHAPE, "sha256": hashlib.sha256(data).hexdigest()} | changes
    (folder / "vit.json").write_text(json.dumps(described))
    return StoredBackbone("mine", "", folder / "vit.json")


def test_stored_weights_arrive(tmp_path: Path) -> None:
    loaded = stored(tmp_path).load()
    original = RandomBackbone("micro", "", SHAPE).load()
    for name, tensor in original.vit.state_dict().items():
        assert torch.equal(loaded.vit.state_dict()[name], tensor.half().float())
    assert loaded.image_size == 16


@pytest.mark.parametrize("backbone", [TINY, TINY_COLOUR], ids=lambda one: one.name)
def test_the_committed_weights_are_small_whole_and_take_plain_pixels(backbone: StoredBackbone) -> None:
    file = backbone.verify()
    assert file.stat().st_size <= 8_000_000
    vit = backbone.load()
    assert not any(tensor.requires_grad for tensor in vit.parameters())
    pictures = torch.rand(2, 3, backbone.image_size, backbone.image_size)
    features = vit(pictures)
    assert features.shape == (2, backbone.architecture["embed_dim"]) and torch.isfinite(features).all()
    assert not torch.allclose(features[0], features[1])
    # Runs on built-in backbones give pixels in [0, 1] as they are.
    assert json.loads(backbone.description.read_text())["normalize"] == "none" and backbone.mean is None


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    backbone = stored(tmp_path)
    file = tmp_path / "vit.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(MethodError, match=r"'mine': vit\.safetensors has SHA-256 .*expected"):
        backbone.load()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    backbone = stored(tmp_path)
    (tmp_path / "vit.safetensors").unlink()
    with pytest.raises(MethodError, match=r"vit\.safetensors cannot be read"):
        backbone.load()


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    backbone = stored(tmp_path, architecture=SHAPE | {"embed_dim": 36})
    with pytest.raises(MethodError, match="do not fit its architecture"):
        backbone.load()


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    backbone = stored(tmp_path, data=save({"cls_token": torch.zeros(1, 1, 24)}))
    with pytest.raises(MethodError, match="do not fit its architecture"):
        backbone.load()


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    backbone = stored(tmp_path)
    (tmp_path / "vit.json").write_text("{")
    with pytest.raises(MethodError, match=r"vit\.json"):
        _ = backbone.sha256


def test_the_committed_backbone_is_what_its_card_says() -> None:
    TINY.verify()
    vit = TINY.load()
    assert vit.depth >= 6
    assert TINY.description.with_suffix(".safetensors").stat().st_size <= 5_000_000
    assert TINY.is_rehearsal and TINY.ships and TINY.is_verified and not TINY.is_random


def test_random_weights_are_named_as_such_and_repeat() -> None:
    micro = RandomBackbone("micro", "", SHAPE)
    torch.manual_seed(1)
    first = micro.load()
    torch.manual_seed(2)
    second = micro.load()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert RANDOM_VIT_B16.is_random and RANDOM_VIT_B16.sha256.startswith("random-")
    assert RandomBackbone("micro", "", SHAPE, seed=1).sha256 != micro.sha256


def test_the_table_is_lazy_and_whole() -> None:
    for name, target in BUILTIN.items():
        module, _, attribute = target.partition(":")
        assert module in {
            "smope_bench.methods.common.backbone.backbones",
            "smope_bench.methods.common.pretrained_files.zoo",
        }
        assert getattr(importlib.import_module(module), attribute).name == name


def test_looking_at_the_backbones_imports_no_torch() -> None:
    code = "import sys, smope_bench.methods.common.pretrained_files.zoo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4], check=False).returncode == 0


def test_what_ships_with_the_project_needs_no_data_folder(tmp_path: Path) -> None:
    def fetch(**asked: object) -> Path:
        raise AssertionError("nothing may be downloaded here")

    for backbone in (TINY, RANDOM_VIT_B16):
        backbone.at(tmp_path).prepare(fetch, [tmp_path / "anything"])
        assert backbone.at(tmp_path).sha256 == backbone.sha256
    assert not list(tmp_path.iterdir())
