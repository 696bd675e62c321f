"""A published backbone is found, checked, prepared whole or not at all, and verified by hash before it is used."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.methods.common.backbone.architectures import build
from smope_bench.methods.common.backbone.backbones import BUILTIN, WeightsMissingError
from smope_bench.methods.common.backbone.pretrained import CheckpointBackbone
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.pretrained_files import conversion as checkpoints
from smope_bench.methods.common.pretrained_files import zoo as published
from smope_bench.methods.common.pretrained_files.conversion import LAYOUTS
from tests.methods.common.pretrained_files.sample_files import (  # pyright: ignore[reportMissingImports]
    SMALL,
    WRITERS,
    dino,
    small_vit,
    timm_bin,
    timm_safetensors,
    weights,
)

ALL = [value for value in vars(published).values() if isinstance(value, CheckpointBackbone)]


def backbone(root: Path, layout: str = "dino", **changes: Any) -> CheckpointBackbone:
    plain = CheckpointBackbone(
        "mine", "", layout, ("vit.pth", "other.pth"), 1, "https://here/vit.pth", architecture=SMALL
    )
    return replace(plain, **changes).at(root)


class Fetching:
    """Stands for the harness's download: notes what it is asked, and puts a file there, or fails."""

    def __init__(self, write: Callable[[Path, dict[str, Tensor]], None] | None = None) -> None:
        self.write, self.asked = write, cast("list[dict[str, Any]]", [])

    def __call__(self, **asked: Any) -> Path:
        self.asked.append(asked)
        path = asked["folder"] / asked["name"]
        if path.is_file():
            return path
        if self.write is None:
            raise AssertionError("nothing may be downloaded here")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write(path, weights(seed=3))
        return path


def given_file(folder: Path, write: Callable[[Path, dict[str, Tensor]], None] = dino, name: str = "any name") -> Path:
    write(folder / name, weights(seed=3))
    return folder / name


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "weights").glob("*") if path.is_file())


@pytest.mark.parametrize(("layout", "write"), WRITERS.values(), ids=WRITERS.keys())
def test_a_prepared_backbone_computes_what_its_source_does(tmp_path: Path, layout: str, write: Any) -> None:
    mine = backbone(tmp_path / "data", layout)
    mine.prepare(Fetching(), [given_file(tmp_path, write)])
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = mine.load()(images), small_vit(seed=3).forward_features(images)[:, 0]
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    assert left_in(tmp_path / "data") == ["mine.json", "mine.safetensors"]
    manifest, file = ((tmp_path / "data" / "weights" / name).stat() for name in left_in(tmp_path / "data"))
    assert file.st_mode == manifest.st_mode


def test_the_hash_is_of_the_tensors_not_of_the_file_they_came_in(tmp_path: Path) -> None:
    found = set()
    for kind in ("timm safetensors", "google", "ibot training", "moco"):
        layout, write = WRITERS[kind]
        mine = backbone(tmp_path / kind, layout)
        mine.prepare(Fetching(), [given_file(tmp_path, write)])
        found.add(mine.sha256)
    assert len(found) == 1
    other = backbone(tmp_path / "other")
    dino(tmp_path / "file", weights(seed=4))
    other.prepare(Fetching(), [tmp_path / "file"])
    assert other.sha256 not in found


def test_the_manifest_says_where_the_weights_come_from(tmp_path: Path) -> None:
    file = given_file(tmp_path, timm_bin, "vit.bin")
    mine = backbone(tmp_path, "timm")
    mine.prepare(Fetching(), [file])
    manifest = json.loads((tmp_path / "weights" / "mine.json").read_text())
    assert manifest["source"] == "vit.bin" and manifest["layout"] == "timm"
    assert manifest["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest["dropped"] == ["head.bias", "head.weight"]
    assert manifest["sha256"] == mine.sha256


def test_what_is_not_prepared_is_refused_with_the_whole_remedy(tmp_path: Path) -> None:
    mine, rest = backbone(tmp_path), r" .*1 MB from https://here/vit\.pth.*--from FILE.*weights/downloads as vit\.pth"
    here, nowhere = f"run `smope-bench data prepare mine --data {tmp_path}`", "run `smope-bench data prepare mine`"
    uses = [(mine.verify, here), (mine.load, here), (lambda: mine.sha256, here)]
    for use, said in [*uses, (lambda: replace(mine, root=None).sha256, nowhere)]:
        with pytest.raises(WeightsMissingError, match=re.escape(said) + rest):
            use()
    mine.prepare(Fetching(), [given_file(tmp_path)])
    (tmp_path / "weights" / "mine.safetensors").unlink()
    with pytest.raises(WeightsMissingError, match=re.escape(here) + rest):
        mine.verify()


def test_a_changed_or_cut_prepared_file_is_refused_and_prepared_again(tmp_path: Path) -> None:
    mine, fetching = backbone(tmp_path), Fetching(dino)
    mine.prepare(fetching)
    file = mine.verify()
    whole = file.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-40], b""):
        file.write_bytes(damaged)
        with pytest.raises(
            MethodError, match=r"has changed since it was prepared .*`smope-bench data prepare mine --data .*` again"
        ):
            mine.load()
        mine.prepare(fetching)
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"backbone": "yours", "sha256": "", "file_sha256": "", "file_bytes": 1}']
)
def test_a_damaged_manifest_is_refused_and_prepared_again(tmp_path: Path, content: str) -> None:
    mine = backbone(tmp_path)
    mine.prepare(Fetching(dino))
    (tmp_path / "weights" / "mine.json").write_text(content)
    with pytest.raises(MethodError, match=r"mine\.json (cannot be read|is no manifest of it)"):
        mine.verify()
    mine.prepare(Fetching(dino))
    mine.verify()


def test_what_is_prepared_is_left_alone_unless_a_file_is_given(tmp_path: Path) -> None:
    mine, said = backbone(tmp_path), []
    mine.prepare(Fetching(dino))
    first = mine.sha256
    mine.prepare(Fetching(), progress=said.append)
    assert said == ["mine: prepared already"]
    dino(tmp_path / "new", weights(seed=8))
    mine.prepare(Fetching(), [tmp_path / "new"])
    assert mine.sha256 != first


def test_a_file_that_is_refused_leaves_what_was_there(tmp_path: Path) -> None:
    mine = backbone(tmp_path)
    mine.prepare(Fetching(dino))
    before = mine.sha256
    torch.save(weights(depth=5), tmp_path / "bad")
    with pytest.raises(
        MethodError, match=r"backbone 'mine': .*bad lacks 'blocks\.5.*https://here/vit\.pth \(about 1 MB\)"
    ):
        mine.prepare(Fetching(), [tmp_path / "bad"])
    mine.verify()
    assert mine.sha256 == before and left_in(tmp_path) == ["mine.json", "mine.safetensors"]


def test_nothing_half_made_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(MethodError, match=r"mine\.safetensors \(0 MB\) cannot be written .*No space left.*free space"):
        backbone(tmp_path).prepare(Fetching(dino))
    assert not left_in(tmp_path)


def test_a_folder_is_searched_under_every_name_before_anything_is_fetched(tmp_path: Path) -> None:
    given_file(tmp_path, name="other.pth")
    mine, fetching = backbone(tmp_path / "a"), Fetching()
    mine.prepare(fetching, [tmp_path])
    downloads = tmp_path / "b" / "weights" / "downloads"
    downloads.mkdir(parents=True)
    backbone(tmp_path / "b").prepare(fetching, [given_file(downloads, name="other.pth").parent])
    backbone(tmp_path / "b").prepare(fetching)
    assert not fetching.asked


def test_fetch_is_asked_for_the_published_file(tmp_path: Path) -> None:
    fetching, said = Fetching(dino), []
    backbone(tmp_path).prepare(fetching, (), said.append)
    (asked,) = fetching.asked
    assert (asked["name"], asked["urls"], asked["digest"]) == ("vit.pth", ("https://here/vit.pth",), None)
    assert asked["folder"] == tmp_path / "weights" / "downloads"
    assert "kept 78 tensors" in said[-1]


def test_a_given_folder_without_the_file_starts_no_download(tmp_path: Path) -> None:
    fetching = Fetching(dino)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MethodError, match=r"none of .*empty is or has vit\.pth or other\.pth; use the file"):
        backbone(tmp_path).prepare(fetching, [tmp_path / "empty"])
    assert not fetching.asked


def test_of_several_given_files_the_one_of_its_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(b"of a benchmark")
    named = given_file(tmp_path, name="other.pth")
    backbone(tmp_path / "a").prepare(Fetching(), [tmp_path / "images.tar", named])
    with pytest.raises(MethodError, match=r"none of .*images\.tar, .*images\.tar is or has vit\.pth"):
        backbone(tmp_path / "b").prepare(Fetching(), [tmp_path / "images.tar", tmp_path / "images.tar"])


def test_a_given_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="gone does not exist"):
        backbone(tmp_path).prepare(Fetching(), [tmp_path / "gone"])


def test_a_given_file_must_be_the_published_one_where_its_hash_is_known(tmp_path: Path) -> None:
    file = given_file(tmp_path)
    known = hashlib.sha256(file.read_bytes()).hexdigest()
    backbone(tmp_path, digest=f"sha256:{known}").prepare(Fetching(), [file])
    with pytest.raises(MethodError, match=f"has SHA-256 {known[:16]}..., the published file has 0000"):
        backbone(tmp_path, digest="sha256:" + "0" * 64).prepare(Fetching(), [file])


@pytest.mark.parametrize(("rows", "said"), [(9, r"is \(7, 24\), expected \(9, 24\)"), (7, "")])
def test_a_twin_of_the_same_architecture_is_refused(tmp_path: Path, rows: int, said: str) -> None:
    mine = backbone(tmp_path, "timm", marks={"head.weight": (rows, 24)})
    if not said:
        mine.prepare(Fetching(timm_safetensors))
        return
    with pytest.raises(MethodError, match=f"another checkpoint of the same architecture .*{said}"):
        mine.prepare(Fetching(timm_safetensors))
    assert not left_in(tmp_path)


@pytest.mark.parametrize(("file", "write"), [("model.safetensors", timm_safetensors), ("pytorch_model.bin", timm_bin)])
def test_the_hugging_face_cache_comes_before_a_download(
    tmp_path: Path, monkeypatch: Any, file: str, write: Any
) -> None:
    snapshot = tmp_path / "hub" / "models--timm--mine" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    given_file(snapshot, write, file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    mine = backbone(tmp_path, "timm", hub="timm/mine")
    mine.prepare(Fetching())
    mine.verify()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    fetching = Fetching(timm_safetensors)
    backbone(tmp_path / "new", "timm", hub="timm/mine").prepare(fetching)
    assert fetching.asked[0]["urls"] == ("https://huggingface.co/timm/mine/resolve/main/model.safetensors",)


def test_loading_maps_the_file_and_draws_nothing(tmp_path: Path) -> None:
    mine = backbone(tmp_path)
    mine.prepare(Fetching(dino))
    before = torch.get_rng_state()
    loaded = mine.load()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


def test_the_table_has_every_published_backbone() -> None:
    assert {entry.name for entry in ALL} == {name for name, target in BUILTIN.items() if ".zoo:" in target}
    assert len(ALL) == 6
    for entry in ALL:
        assert entry.layout in LAYOUTS and entry.address.startswith("https://") and bool(entry.hub) != bool(entry.url)
        assert not entry.is_random and not entry.is_rehearsal and not entry.ships and entry.image_size == 224
        assert entry.digest is None or len(entry.digest.removeprefix("sha256:")) == 64


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_the_full_architecture_is_timms_vit_b16(entry: CheckpointBackbone) -> None:
    name = entry.hub.removeprefix("timm/") or "vit_base_patch16_224.dino"
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False, num_classes=0)
        same = build({**entry.architecture, "weight_init": "skip"})
    ours = entry.skeleton().vit
    assert isinstance(theirs, VisionTransformer) and repr(same) == repr(theirs)
    shapes = {name: tuple(value.shape) for name, value in ours.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert sum(parameter.numel() for parameter in ours.parameters()) == 85_798_656
    norms = [module for module in ours.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 25 and {norm.eps for norm in norms} == {1e-6}
    assert {module.approximate for module in ours.modules() if isinstance(module, nn.GELU)} == {"none"}
