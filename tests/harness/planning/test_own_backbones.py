"""``--backbone``: any ViT's weights by file, known by its tensors; its size, feature and normalisation; what cannot be used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from smope_bench import run_all
from smope_bench.harness.conformance.check import check_target, failed
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.own_backbones import find_backbone
from smope_bench.harness.planning.planner import PlannedRun, plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import parse_setting
from smope_bench.harness.planning.summary.manifest import manifest
from smope_bench.harness.registry.registry import open_registries
from smope_bench.methods.common.backbone.backbones import TINY, BackboneSettings
from smope_bench.methods.common.backbone.imported import ImportedBackbone
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.pretrained_files import zoo
from tests.methods.common.pretrained_files.sample_files import (  # pyright: ignore[reportMissingImports]
    SMALL,
    google_arrays,
    small_vit,
    timm_bin,
    timm_safetensors,
    weights,
)

HEADS = "backbone.heads=2"


def silent(text: str) -> None:
    del text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    timm_safetensors(tmp_path / "mine.safetensors", weights(seed=3))
    return tmp_path / "mine.safetensors"


def planned(root: Path, backbone: str | Path, *settings: str) -> PlannedRun:
    selection = Selection(
        methods=("ncm",), backbone=str(backbone), settings=tuple(parse_setting(text) for text in settings)
    )
    return plan(["ci"], selection, open_registries(), root / "data", notify=silent)[0]


def command(root: Path, *words: str) -> int:
    return run_all.main([*words, "--data", str(root / "data")])


def test_the_same_tensors_are_one_backbone_in_every_container(file: Path, tmp_path: Path) -> None:
    timm_bin(tmp_path / "vit_small_of_mine.pth", weights(seed=3))
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights(seed=3).items()}}, tmp_path / "x.tar")
    runs = [planned(tmp_path, path, HEADS) for path in (file, tmp_path / "vit_small_of_mine.pth", tmp_path / "x.tar")]
    assert len({run.run_id for run in runs}) == 1
    name = runs[0].spec.backbone.name
    assert sorted(path.name for path in (tmp_path / "data" / "weights").iterdir()) == [
        f"{name}.json",
        f"{name}.safetensors",
    ]
    file.unlink()
    assert planned(tmp_path, name).run_id == runs[0].run_id
    timm_bin(tmp_path / "other.pth", weights(seed=4))
    assert planned(tmp_path, tmp_path / "other.pth", HEADS).spec.backbone.name != name


def test_the_benchmark_follows_the_backbone_unless_the_user_says_otherwise(file: Path, tmp_path: Path) -> None:
    own = ("backbone.mean=[0.5,0.4,0.3]", "backbone.std=[0.2,0.2,0.25]", HEADS)
    config = planned(tmp_path, file, *own).spec.benchmark.config
    assert (config["image_size"], config["normalize"]) == (32, "0.5,0.4,0.3/0.2,0.2,0.25")
    config = planned(tmp_path, file, *own, "backbone.image_size=64").spec.benchmark.config
    assert config["image_size"] == 64
    assert planned(tmp_path, file, *own, "benchmark.normalize=half").spec.benchmark.config["normalize"] == "half"
    assert planned(tmp_path, "tiny").spec.benchmark.config["normalize"] == "none"


def test_what_is_changed_of_a_backbone_is_in_its_runs_identity(file: Path, tmp_path: Path) -> None:
    name = planned(tmp_path, file, HEADS).spec.backbone.name
    plain = planned(tmp_path, name)
    changes = ("image_size=64", "feature=avg", "image_size=64 resample=plain")
    runs = [planned(tmp_path, name, *(f"backbone.{part}" for part in each.split())) for each in changes]
    assert len({plain.run_id, *(run.run_id for run in runs)}) == 4
    assert [run.spec.backbone.settings.words for run in runs] == [
        "at 64 px (antialias)",
        "feature avg",
        "at 64 px (plain)",
    ]
    assert runs[0].benchmark.endswith(f"{name}, at 64 px (antialias)")
    own = planned(tmp_path, name, "backbone.image_size=32", "backbone.feature=token")
    assert own.run_id == plain.run_id and set(own.spec.backbone.model_dump()) == {"name", "sha256"}
    assert len({run.spec.backbone.features_key for run in (plain, *runs)}) == 4


@pytest.mark.parametrize("resample", ["antialias", "plain"])
def test_another_size_and_feature_are_timms(file: Path, tmp_path: Path, resample: Any) -> None:
    data = tmp_path / "data"
    name = planned(tmp_path, file, HEADS).spec.backbone.name
    settings = BackboneSettings(image_size=64, resample=resample, feature="avg")
    ours = ImportedBackbone(name, data).adapted(settings).load()
    theirs = small_vit(seed=3, img_size=64)
    held = weights(seed=3)
    positions = resample_abs_pos_embed(held["pos_embed"], [4, 4], [2, 2], antialias=resample == "antialias")
    theirs.load_state_dict({**held, "pos_embed": positions})
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_features(images)[:, 1:].mean(dim=1)
    assert torch.allclose(ours(images), expected, rtol=0, atol=1e-5)


def test_a_run_on_a_file_is_marked_wherever_it_is_shown(file: Path, tmp_path: Path, capsys: Any) -> None:
    results = tmp_path / "results"
    words = ("run", "ci", "--methods", "ncm", "--executor", "serial", "--results", str(results), "--set", HEADS)
    assert command(tmp_path, *words, "--backbone", str(file)) == 0
    shown = capsys.readouterr().out
    assert "Nearest class mean (weights not verified)" in shown and "no public source states" in shown
    (record,) = (json.loads(path.read_text()) for path in results.rglob("result.json"))
    assert record["flags"]["unverified_weights"] and not record["flags"]["tiny"]
    assert command(tmp_path, "list", "backbones", "--json") == 0
    row = json.loads(capsys.readouterr().out)[-1]
    assert row["name"] == record["spec"]["backbone"]["name"] and row["owner"] == "the data folder"
    assert not row["verified"] and "6 blocks of width 24" in row["summary"]
    assert command(tmp_path, "data", "verify", row["name"]) == 0
    assert "weights not verified" in capsys.readouterr().out
    assert command(tmp_path, "data", "prepare", row["name"], "--from", str(file)) == 2
    assert "with --backbone" in capsys.readouterr().err


def test_the_kit_checks_a_method_on_a_file(file: Path, tmp_path: Path) -> None:
    settings = [parse_setting(text) for text in (HEADS, "backbone.feature=avg")]
    found = check_target("linear_probe", str(file), tmp_path / "data", settings)
    assert not failed(found["linear_probe"])


ORIGINAL = {"pre_logits.fc.weight": (24, 24)}


@pytest.fixture
def small_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two published backbones with the marks of the real ones, on a small architecture."""
    twins = {"google": {"head/kernel": (24, 7), "pre_logits/kernel": None}}
    aug = replace(zoo.SUP21K, architecture=SMALL, marks={"head.weight": (7, 24)}, twins=twins)
    first = replace(
        zoo.SUP21K_ORIG, architecture=SMALL, marks={"pre_logits/kernel": (24, 24)}, twins={"timm_2020": ORIGINAL}
    )
    monkeypatch.setattr(zoo, "SUP21K", aug)
    monkeypatch.setattr(zoo, "SUP21K_ORIG", first)


def npz(path: Path, *, is_original: bool) -> Path:
    import numpy as np

    arrays = google_arrays(weights(seed=3))
    kept = {name: value for name, value in arrays.items() if is_original or not name.startswith("pre_logits")}
    np.savez(path, **kept)  # type: ignore[arg-type]
    return path


def original_pth(path: Path) -> Path:
    extra = {"pre_logits.fc.weight": torch.zeros(24, 24), "pre_logits.fc.bias": torch.zeros(24)}
    torch.save({**weights(seed=3), **extra, "head.weight": torch.zeros(7, 24), "head.bias": torch.zeros(7)}, path)
    return path


@pytest.mark.usefixtures("small_zoo")
def test_twins_of_published_files_are_prepared_and_told_apart(tmp_path: Path, file: Path, capsys: Any) -> None:
    augreg, first = npz(tmp_path / "a.npz", is_original=False), npz(tmp_path / "b.npz", is_original=True)
    old = original_pth(tmp_path / "old.pth")
    for name, own, other in (("sup21k", augreg, first), ("sup21k_orig", old, augreg)):
        assert command(tmp_path, "data", "prepare", name, "--from", str(own)) == 0
        assert f"{name}: weights not verified" in capsys.readouterr().out
        assert command(tmp_path, "data", "prepare", name, "--from", str(other)) == 2
        assert "another checkpoint of the same architecture" in capsys.readouterr().err
    # Both hold the same tensors here: the first is found.
    said: list[str] = []
    assert find_backbone(str(file), open_registries(), tmp_path / "data", said.append) == "sup21k"
    assert said == ["mine.safetensors has the tensors of backbone 'sup21k' and is used as that"]


@pytest.mark.usefixtures("small_zoo")
def test_a_publicly_stated_hash_makes_weights_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = original_pth(tmp_path / "renamed.pth")
    known = hashlib.sha256(old.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(zoo, "SUP21K_ORIG", replace(zoo.SUP21K_ORIG, known=(known,)))
    registries, data = open_registries(), tmp_path / "data"
    assert not registries.backbones.load("sup21k_orig").at(data).is_verified
    assert find_backbone(str(old), registries, data, silent) == "sup21k_orig"
    assert registries.backbones.load("sup21k_orig").at(data).is_verified
    assert TINY.is_verified and zoo.DINO1K.is_published(str(zoo.DINO1K.digest).removeprefix("sha256:"))
    assert zoo.SUP1K.is_published(zoo.SUP1K.known[0]) and not zoo.IBOT1K.is_published("")


def folder(root: Path) -> str:
    (root / "folder").mkdir()
    return "folder"


def whole(root: Path) -> str:
    timm_safetensors(root / "whole.safetensors", weights())
    return "whole.safetensors"


def half(root: Path) -> str:
    data = (root / whole(root)).read_bytes()
    (root / "half.safetensors").write_bytes(data[: len(data) // 2])
    return "half.safetensors"


@pytest.mark.parametrize(
    ("made", "settings", "said"),
    [
        (lambda _: "gone.pth", (), "'gone.pth' does not exist: give a weights file"),
        (folder, (), "is a folder: give the weights file in it"),
        (half, (), "half.safetensors"),
        (lambda _: "tinny", (), "unknown backbone 'tinny'; did you mean 'tiny'"),
        (lambda _: "timm:vit_bas_patch16_224", (), "vit_base_patch16_224"),
        (lambda _: "timm:vit_base_patch16_224.augreg9", (), "augreg"),
        (lambda _: "timm:vit_base_patch16_224", ("backbone.heads=3",), "backbone.heads is known of timm:"),
        (lambda _: "vit-0123456789ab", (), "is not in"),
        (lambda _: "tiny", ("backbone.image_size=30",), "cannot be divided into the"),
        (
            lambda _: "tiny",
            ("backbone.image_size=4",),
            "backbone.image_size=4: Input should be greater than or equal to 8",
        ),
        (lambda _: "tiny", ("backbone.feature=map",), "has no attention pool; use one of 'token', 'avg'"),
        (lambda _: "tiny", ("backbone.feature=mean",), "'token', 'avg' or 'map'"),
        (lambda _: "tiny", ("backbone.resample=plain",), "changes nothing"),
        (
            lambda _: "tiny",
            ("backbone.image_sise=64",),
            "backbone.image_sise is not a setting; did you mean 'image_size'",
        ),
        (lambda _: "tiny", ("backbone.heads=3",), "give the file with --backbone FILE"),
        (lambda _: "", (), "unknown backbone ''"),
        (
            whole,
            ("backbone.std=[0,0,0]",),
            "backbone.std=[0, 0, 0]: give three numbers for red, green and blue, 0 < each",
        ),
        (whole, ("backbone.mean=[124,116,104]",), "0 <= each <= 1, as [0.5,0.5,0.5]"),
        (whole, ("backbone.mean=0.5",), "backbone.mean=0.5: give three numbers"),
        (whole, ("backbone.image_size=2000",), "less than or equal to 1024"),
        (whole, ("backbone.model=vit_tiny_patch16_224",), "as timm's vit_tiny_patch16_224: whole.safetensors"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    made: Callable[[Path], str], settings: tuple[str, ...], said: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    sets = [word for text in settings for word in ("--set", text)]
    assert command(tmp_path, "plan", "ci", "--methods", "ncm", "--backbone", made(tmp_path), *sets) == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split()) and "Traceback" not in error
    assert not list((tmp_path / "data").glob("weights/*"))


def test_an_import_that_has_gone_or_changed_is_refused(file: Path, tmp_path: Path, capsys: Any) -> None:
    name = planned(tmp_path, file, HEADS).spec.backbone.name
    held = tmp_path / "data" / "weights" / f"{name}.safetensors"
    manifest = held.with_suffix(".json")
    whole, facts = held.read_bytes(), json.loads(manifest.read_text())
    held.write_bytes(whole[:-1])
    for words in (("list", "backbones"), ("describe", name)):
        command(tmp_path, *words)
        shown = capsys.readouterr()
        assert "has changed since it was prepared" in " ".join((shown.out + shown.err).split())
    held.write_bytes(whole[:-1] + b"x")
    with pytest.raises(MethodError, match=r"has changed since it was prepared.*--backbone FILE"):
        planned(tmp_path, name)
    for change in ({"architecture": {**facts["architecture"], "num_heads": 3}}, {"mean": [0, 0, 0]}, {"seal": 3}):
        manifest.write_text(json.dumps(facts | change))
        with pytest.raises(MethodError, match=r"has changed since the import|is no manifest of it"):
            planned(tmp_path, name)
    manifest.write_text("{")
    with pytest.raises(MethodError, match=r"json cannot be read: .*; delete it and import it again"):
        planned(tmp_path, name)
    manifest.unlink()
    with pytest.raises(MethodError, match=f"{name}.* is not in .*import it with --backbone FILE"):
        planned(tmp_path, name)
    assert planned(tmp_path, file, HEADS).spec.backbone.name == name and held.read_bytes() == whole


def test_a_data_folder_that_cannot_be_written_is_said(file: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(MethodError, match="cannot be written"):
        planned(tmp_path, file, HEADS)


def test_is_tiny_is_refused_with_what_took_its_place(tmp_path: Path) -> None:
    plugin = tmp_path / "old.py"
    plugin.write_text(
        "from smope_bench.api import VIT_B16, RandomBackbone\n"
        "MINE = RandomBackbone(name='mine', summary='', architecture=VIT_B16, is_tiny=True)\n"
    )
    with pytest.raises(UserError, match=r"is_tiny is no more: .* set is_rehearsal=True"):
        open_registries([plugin])


SUITE = (
    "tiny: true\nrows: [ncm]\nbackbone: ../mine.safetensors\ncolumns: [digits, {benchmark: digits, backbone: tiny}]\n"
)


def suite_file(root: Path, text: str = SUITE) -> str:
    (root / "suites").mkdir()
    (root / "suites" / "two.yaml").write_text(text)
    return str(root / "suites" / "two.yaml")


def test_a_file_in_a_suite_is_found_beside_it(file: Path, tmp_path: Path) -> None:
    registries, suite = open_registries(), suite_file(tmp_path)
    runs = plan([suite], Selection(), registries, tmp_path / "data", notify=silent)
    own, tiny = (run.spec.backbone.name for run in runs)
    assert own == planned(tmp_path, file).spec.backbone.name and tiny == "tiny"
    found = manifest(suite, runs, registries)
    assert found["suite_columns"] == [[run.benchmark for run in runs]] and own in found["columns"][0]["label"]
    assert not found["tiny"] and not json.dumps(found).count("mine.safetensors")
    instead = plan([suite], Selection(backbone="tiny_random"), open_registries(), tmp_path / "other", notify=silent)
    assert {run.spec.backbone.name for run in instead} == {"tiny_random"} and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SUITE.replace("mine", "gone"), "(line 4): --backbone"),
        (SUITE.replace("../mine.safetensors", "timm:vit_bas_patch16_224"), "vit_base_patch16_224"),
        (
            SUITE.replace("backbone: tiny", "settings: {backbone.image_size: 64}"),
            "settings of a backbone cannot stand in a file: give --set backbone.FIELD=VALUE",
        ),
        (SUITE.replace("../mine.safetensors", "tinny"), "(line 4): unknown backbone 'tinny'; did you mean 'tiny'"),
    ],
)
def test_a_suite_with_a_backbone_that_is_not_there_is_refused(
    text: str, said: str, tmp_path: Path, capsys: Any
) -> None:
    assert command(tmp_path, "plan", suite_file(tmp_path, text)) == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split()) and "Traceback" not in error
    assert not (tmp_path / "data").exists()


def test_a_file_is_timed(file: Path, tmp_path: Path, capsys: Any) -> None:
    words = ("bench", "step", "--methods", "linear_probe", "--repeats", "1", "--threads", "1", "--json")
    assert command(tmp_path, *words, "--backbone", str(file)) == 0
    assert "linear_probe" in capsys.readouterr().out
    assert command(tmp_path, *words, "--backbone", planned(tmp_path, file).spec.backbone.name) == 0
    assert command(tmp_path, *words, "--backbone", "gone.pth") == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ({"img_size": 32, "embed_dim": 64, "depth": 6, "num_heads": 5}, "dim should be divisible by num_heads"),
        ({"model": "vit_tiny_r_s16_p8_224", "img_size": 32}, "convolutional network"),
        ({"model": "vit_tiny_patch16_224"}, "img_size of its architecture is None"),
        ({"model": "vit_tinny", "img_size": 32}, "no model 'vit_tinny'"),
        ({"img_size": [32, 64], "embed_dim": 64}, "img_size of its architecture is [32, 64]"),
        ({"img_size": 32, "embed_dimension": 64}, "embed_dimension"),
        (
            {"model": "vit_tiny_patch16_224", "img_size": 32, "checkpoint_path": "x.pth"},
            "cannot have 'checkpoint_path'",
        ),
    ],
)
def test_an_architecture_of_a_plugin_that_cannot_be_built_is_one_sentence(
    architecture: dict[str, Any], said: str, tmp_path: Path, capsys: Any
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from smope_bench.api import RandomBackbone\n"
        f"MINE = RandomBackbone(name='mine', summary='', architecture={architecture!r})\n"
    )
    words = ("plan", "ci", "--methods", "smope", "--plugin", str(plugin), "--backbone", "mine")
    assert command(tmp_path, *words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error and "'mine'" in error.replace("backbone mine:", "'mine'") and "Traceback" not in error
