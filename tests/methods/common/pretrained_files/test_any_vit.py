"""Weights files of all common kinds: read, equal to timm's forward, prompted; or refused with what stands in the way."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from smope_bench.methods.common.backbone.architectures import load, skeleton
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.pretrained_files.any_vit import ReadViT, read_timm, read_vit, timm_model
from smope_bench.methods.common.vit.attention_rules import TokenRule
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT, plain_attention
from tests.methods.common.pretrained_files import vit_files  # pyright: ignore[reportMissingImports]


def prompted(read: ReadViT) -> PromptedViT:
    """The backbone from what can be stored: JSON and tensors."""
    vit = skeleton(json.loads(json.dumps(read.architecture)))
    load(vit, read.tensors, assign=True)
    return PromptedViT(vit)


def images(side: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


class Reader(TokenRule):
    """Plain attention that notes how many tokens it reads."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def read(self, tokens: Tensor) -> None:
        self.counts.append(tokens.shape[1])

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return plain_attention(q, k, v)


@pytest.mark.parametrize("kind", vit_files.READ.values(), ids=vit_files.READ)
def test_a_kind_is_read_and_prompted(kind: Callable[[Path], vit_files.Written], tmp_path: Path) -> None:
    written = kind(tmp_path)
    read = read_vit(written.path, **written.arguments)
    for words in written.says:
        assert words in read.found
    assert "\n" not in read.found
    vit = prompted(read)
    batch = images(read.image_size)
    with torch.no_grad():
        expected = written.model(batch)
    torch.testing.assert_close(vit.features(batch), expected, atol=1e-5, rtol=0)

    shape = (vit.num_heads, 3, vit.head_dim)
    keys, values = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), requires_grad=True) for seed in (0, 1)
    )
    reader = Reader()
    rules = {0: PlainPrefix(keys, values), 1: reader, vit.depth - 1: PlainPrefix(keys, values)}
    ours = vit(batch, rules)
    assert (ours - expected).abs().max() > 1e-4
    gradient = torch.autograd.grad(ours.square().sum(), keys)
    assert gradient[0].abs().max() > 0
    assert reader.counts == [vit.tokens(batch).shape[1]]
    vit.memory = MemoryPlan(micro_batch=2)
    torch.testing.assert_close(
        torch.autograd.grad(vit(batch, rules).square().sum(), keys), gradient, atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize(("tensors", "words"), vit_files.REFUSED.values(), ids=vit_files.REFUSED)
def test_a_kind_is_refused_by_what_stands_in_the_way(tensors: Callable[[], Any], words: str, tmp_path: Path) -> None:
    path = vit_files.saved(tmp_path, {"model": tensors()})
    with pytest.raises(MethodError, match=words) as caught:
        read_vit(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_settings_are_overridden_one_by_one(tmp_path: Path) -> None:
    built = vit_files.model(
        num_heads=4, act_layer="quick_gelu", norm_layer=vit_files.partial(vit_files.LayerNorm, eps=1e-3)
    )
    path = vit_files.saved(tmp_path, vit_files.tensors_of(built))
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    read = read_vit(path, heads=4, activation="quick_gelu", epsilon=1e-3, mean=mean, std=std)
    assert (read.mean, read.std) == (mean, std) and "assumed" not in read.found
    torch.testing.assert_close(prompted(read).features(images(32)), built(images(32)), atol=1e-5, rtol=0)
    with pytest.raises(MethodError, match="3 heads; give another number"):
        read_vit(path, heads=3)


@pytest.mark.parametrize("feature", ["token", "avg"])
def test_the_feature_is_chosen(feature: Any, tmp_path: Path) -> None:
    built = vit_files.model(global_pool=feature, fc_norm=False)
    path = vit_files.saved(tmp_path, vit_files.tensors_of(built))
    read = read_vit(path, feature=feature)
    assert read.feature == feature
    torch.testing.assert_close(prompted(read).features(images(32)), built(images(32)), atol=1e-5, rtol=0)
    with pytest.raises(MethodError, match="no attention pool"):
        read_vit(path, feature="map")


@pytest.mark.parametrize("resample", ["antialias", "plain"])
@pytest.mark.parametrize("kind", ["plain", "registers", "deit_distilled"])
def test_another_input_size_resamples_as_timm_does(kind: str, resample: Any, tmp_path: Path) -> None:
    written = vit_files.READ[kind](tmp_path)
    changes = {"registers": {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}}.get(kind, {})
    larger = vit_files.model(type(written.model), img_size=56, **changes)
    held = checkpoint_filter_fn(vit_files.tensors_of(written.model), larger, antialias=resample == "antialias")
    larger.load_state_dict(held)
    read = read_vit(written.path, image_size=56, resample=resample)
    assert "resampled" in read.found and read.image_size == 56
    torch.testing.assert_close(prompted(read).features(images(56)), larger(images(56)), atol=1e-5, rtol=0)
    other = read_vit(written.path, image_size=24, resample="plain").tensors["pos_embed"]
    assert not torch.equal(
        other, read_vit(written.path, image_size=24).tensors["pos_embed"]
    )  # it matters when made smaller


def test_an_input_size_must_be_whole_patches(tmp_path: Path) -> None:
    path = vit_files.plain(tmp_path).path
    with pytest.raises(MethodError, match=r"image_size=30 is no multiple of .* the nearest is 32"):
        read_vit(path, image_size=30)


class Tells:
    """A harmless stand-in for code in a pickle: it would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def bad(folder: Path, name: str) -> Path:
    """A file that cannot be read."""
    path = folder / "weights.pth"
    tensors = vit_files.tensors_of(vit_files.model())
    if name == "half a file":
        whole = vit_files.saved(folder, tensors, "whole.pth").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "half a safetensors file":
        whole = vit_files.saved(folder, tensors, "whole.safetensors").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "code":
        torch.save({"model": tensors, "extra": Tells(folder / "mark")}, path)
    elif name == "a program":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights/constants.pkl", b"")
    elif name == "old code":
        path.write_bytes(pickle.dumps({"model": Tells(folder / "mark")}))
    elif name == "empty":
        path.touch()
    elif name == "text":
        path.write_text("these are the weights\n")
    elif name == "not a number":
        tensors["blocks.3.mlp.fc1.weight"][0, 0] = torch.nan
        torch.save(tensors, path)
    elif name == "missing":
        del tensors["blocks.2.norm1.weight"]
        torch.save(tensors, path)
    elif name == "missing at the top":
        del tensors["norm.weight"]
        torch.save(tensors, path)
    elif name == "no class token":
        del tensors["cls_token"]
        torch.save(tensors, path)
    elif name == "no block":
        torch.save({key: value for key, value in tensors.items() if not key.startswith("blocks.4.")}, path)
    elif name == "extra":
        torch.save({**tensors, "blocks.1.attn.extra.weight": torch.rand(3)}, path)
    elif name == "extra at the top":
        torch.save({**tensors, "adapter.weight": torch.rand(3)}, path)
    elif name == "whole numbers":
        torch.save({key: (value * 10).to(torch.int8) for key, value in tensors.items()}, path)
    elif name == "a model":
        torch.save(vit_files.model(), path)
    elif name == "a list":
        torch.save(list(tensors.values()), path)
    elif name == "other numbers":
        tensors["blocks.3.mlp.fc1.weight"] = torch.rand(7, 7)
        torch.save(tensors, path)
    elif name == "one channel":
        tensors["patch_embed.proj.weight"] = torch.rand(128, 1, 8, 8)
        torch.save(tensors, path)
    return path


BAD = {
    "half a file": "truncated, damaged",
    "half a safetensors file": "truncated, damaged",
    "code": "nothing of it was run",
    "a program": "is a TorchScript program",
    "old code": "nothing of it was run",
    "empty": r"is empty; give the complete file of a ViT's tensors, such as torch.save\(vit.state_dict\(\), FILE\) writes",
    "text": "is no checkpoint",
    "not a number": "'blocks.3.mlp.fc1.weight' has values that are not finite, expected numbers; use another copy",
    "missing": "lacks 'blocks.2.norm1.weight'",
    "missing at the top": "lacks 'norm.weight'",
    "no class token": "lacks a class token",
    "no block": "lacks 'blocks.4.norm1.weight'",
    "extra": "'blocks.1.attn.extra.weight'; what they do would be lost",
    "extra at the top": "'adapter.weight'; what they do would be lost",
    "whole numbers": "expected floating-point numbers",
    "a model": "nothing of it was run",
    "a list": "holds a list, not tensors by name",
    "other numbers": r"has shape \(7, 7\), expected \(512, 128\)",
    "one channel": r"has shape \(128, 1, 8, 8\), expected \(d, 3, p, p\)",
    "nothing": "does not exist; give the path of a weights file",
}


@pytest.mark.parametrize(("name", "words"), BAD.items(), ids=BAD)
def test_a_bad_file_is_refused_in_one_sentence(name: str, words: str, tmp_path: Path) -> None:
    path = bad(tmp_path, name)
    with pytest.raises(MethodError, match=words) as caught:
        read_vit(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_code_in_a_pickle_would_have_run(tmp_path: Path) -> None:
    """The control: an ordinary unpickling does what the refusal prevents."""
    pickle.loads(pickle.dumps(Tells(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's own file of a registered model, at its published shape."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    return path


def test_a_name_of_timm_brings_its_own_statistics(tiny: Path) -> None:
    read = read_timm("timm:vit_tiny_patch16_224.augreg_in21k", file=tiny, image_size=32)
    assert (read.mean, read.std) == ((0.5,) * 3, (0.5,) * 3)
    assert "tag augreg_in21k;" in read.found.replace(",", ";") and "assumed" not in read.found
    reference = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0).eval()
    reference.load_state_dict(checkpoint_filter_fn(load_file(tiny), reference), strict=False)  # type: ignore[arg-type]
    batch = images(32)
    torch.testing.assert_close(prompted(read).features(batch), reference(batch), atol=1e-5, rtol=0)


def test_the_default_tag_is_stated(tiny: Path) -> None:
    assert timm_model("timm:vit_base_patch16_224").tag == "augreg2_in21k_ft_in1k"
    assert "its default" in read_timm("vit_tiny_patch16_224", file=tiny, image_size=16).found


def test_a_file_named_after_a_model_of_timm_is_that_model(tiny: Path, tmp_path: Path) -> None:
    named = tmp_path / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    named.symlink_to(tiny)
    read = read_vit(named)
    assert read.architecture["model"] == "vit_tiny_patch16_224" and read.mean == (0.5,) * 3
    assert "assumed: that it is what its name says" in read.found


def test_a_name_without_a_tag_claims_none(tiny: Path, tmp_path: Path) -> None:
    named = tmp_path / "vit_tiny_patch16_224-my-own.safetensors"
    named.symlink_to(tiny)
    found = read_vit(named).found
    assert "tag augreg" not in found.partition("assumed")[0]
    assert "mean and standard deviation of its default tag augreg_in21k_ft_in1k" in found


def test_a_configuration_brings_its_own_statistics(tmp_path: Path) -> None:
    read = read_vit(vit_files.timm_hub(tmp_path).path)
    assert (read.mean, read.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)) and "tag" not in read.found
    other = tmp_path / "other"
    other.mkdir()
    read = read_vit(vit_files.transformers_vit(other).path)
    assert (read.mean, read.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert "assumed" not in read.found


def test_a_name_that_does_not_fit_is_no_evidence(tmp_path: Path) -> None:
    path = vit_files.saved(tmp_path, vit_files.tensors_of(vit_files.model()), "vit_base_patch16_224.pth")
    read = read_vit(path)
    assert read.architecture["embed_dim"] == vit_files.WIDTH
    assert "its name names timm's vit_base_patch16_224" in read.found


def test_weights_in_the_hub_cache_are_found(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "vit_tiny_patch16_224.augreg_in21k"
    with pytest.raises(
        MethodError, match=rf"download https://huggingface.co/timm/{name}/resolve/main/model.safetensors"
    ):
        read_timm(name)
    folder = tmp_path / f"models--timm--{name}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "model.safetensors").symlink_to(tiny)
    assert read_timm(name).image_size == 224


def test_weights_are_fetched_only_through_the_given_function(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    asked: list[tuple[str, tuple[str, ...]]] = []

    def fetch(name: str, addresses: tuple[str, ...]) -> Path:
        asked.append((name, addresses))
        return tiny

    assert read_timm("vit_tiny_patch16_224.augreg_in21k", fetch=fetch).image_size == 224
    assert asked[0][0] == "model.safetensors" and "augreg_in21k/resolve" in asked[0][1][0]


NAMES = {
    "vit_base_patch16_244": "no model 'vit_base_patch16_244'; the nearest are .*vit_base_patch16_224",
    "vit_base_patch16_224.augreg_in22k": "no weights tagged 'augreg_in22k'; it has augreg_in21k",
    "zzz": r"no model 'zzz'; timm.list_models\(\) lists them",
    "resnet18": "cannot be prompted: the backbone is a ResNet",
    "swin_tiny_patch4_window7_224": "cannot be prompted: the backbone is a SwinTransformer",
    "vit_tiny_r_s16_p8_224": "patches come from a convolutional network",
}


@pytest.mark.parametrize(("name", "words"), NAMES.items(), ids=NAMES)
def test_a_name_that_cannot_be_used_is_refused(name: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        read_timm(f"timm:{name}")


HOSTILE = {
    "no number of heads": {"num_attention_heads": "two"},
    "no epsilon": {"layer_norm_eps": float("nan")},
    "no arguments": {"architecture": "vit_tiny_patch16_224", "model_args": {"patch_size": "y", "num_heads": {}}},
    "no layer": {"architecture": "vit_tiny_patch16_224", "model_args": {"norm_layer": {"layer": "Nothing"}}},
    "no model": {"architecture": "hf-hub:some/where"},
    "no statistics": {"architecture": "nothing", "pretrained_cfg": {"mean": [124, 116, 104], "std": [0, 0, 0]}},
}


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE)
def test_a_config_that_makes_no_sense_is_no_evidence(config: dict[str, Any], tmp_path: Path) -> None:
    path = vit_files.plain(tmp_path).path
    expected = read_vit(path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_vit(path)
    assert read.found.startswith(expected.found)
    assert (read.architecture, read.mean, read.std) == (expected.architecture, expected.mean, expected.std)


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained_cfg"])
def test_a_config_cannot_make_timm_load_another_file(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = vit_files.timm_hub(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"][argument] = str(tmp_path / "other.pth")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "its config.json names timm's vit_tiny_patch16_224, which" in read_vit(written.path).found
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("timm was asked"))
    with pytest.raises(MethodError, match=f"cannot have '{argument}'"):
        skeleton({"model": "vit_tiny_patch16_224", argument: "other.pth"})


def test_the_head_that_a_config_names_is_left_out(tmp_path: Path) -> None:
    written = vit_files.timm_hub(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["num_classes"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_vit(written.path)
    assert read.architecture["model"] == "vit_tiny_patch16_224"
    torch.testing.assert_close(prompted(read).features(images(32)), written.model(images(32)), atol=1e-5, rtol=0)


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    path = vit_files.plain(tmp_path).path
    (tmp_path / "config.json").write_text(json.dumps({"hidden_act": "laplace"}))
    with pytest.raises(MethodError, match=r"'laplace', which is not known; use --set backbone.activation=NAME"):
        read_vit(path)
    assert "act_layer" not in read_vit(path, activation="gelu").architecture


def test_a_rectangle_that_could_be_a_square_is_stated(tmp_path: Path) -> None:
    path = vit_files.saved(tmp_path, vit_files.tensors_of(vit_files.model(img_size=(16, 32))))
    assert "a square grid of 3 x 3 patches, with no place for the class token" in read_vit(path).found
