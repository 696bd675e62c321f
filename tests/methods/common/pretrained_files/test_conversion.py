"""Files in each publisher's own layout arrive tensor by tensor; anything else is refused in one sentence and run by nobody."""

from __future__ import annotations

import argparse
import io
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer, _load_weights

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.pretrained_files.conversion import Converted, convert, tensors_sha256
from tests.methods.common.pretrained_files.sample_files import (  # pyright: ignore[reportMissingImports]
    HEAD,
    SMALL,
    WRITERS,
    Tensors,
    dino,
    google,
    google_arrays,
    ibot,
    ibot_training,
    moco,
    small_vit,
    timm_bin,
    timm_safetensors,
    weights,
)

EVERY = pytest.mark.parametrize(("layout", "write"), WRITERS.values(), ids=WRITERS.keys())


def read(path: Path, layout: str) -> Converted:
    return convert(path, layout, {name: tuple(value.shape) for name, value in weights().items()}, heads=2)


@EVERY
def test_every_tensor_lands(tmp_path: Path, layout: str, write: Callable[[Path, Tensors], None]) -> None:
    source = small_vit(seed=3)
    write(tmp_path / "file", source.state_dict())
    converted = read(tmp_path / "file", layout)
    target = VisionTransformer(**SMALL).eval()
    target.load_state_dict(converted.tensors, strict=True)
    for name, value in source.state_dict().items():
        assert torch.equal(converted.tensors[name], value), name
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(target.forward_features(images), source.forward_features(images))


def test_google_arrays_land_where_timm_puts_them(tmp_path: Path) -> None:
    google(tmp_path / "vit.npz", weights(seed=3))
    theirs = VisionTransformer(**SMALL).eval()
    with torch.no_grad():
        _load_weights(theirs, str(tmp_path / "vit.npz"))
    ours = read(tmp_path / "vit.npz", "google").tensors
    assert all(torch.equal(ours[name], value) for name, value in theirs.state_dict().items())


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    timm_bin(tmp_path / "file", weights())
    assert read(tmp_path / "file", "timm").dropped == HEAD
    moco(tmp_path / "file", weights())
    dropped = read(tmp_path / "file", "moco").dropped
    assert {"head.0.weight", "module.predictor.0.weight", "module.momentum_encoder.cls_token"} <= set(dropped)
    assert "cls_token" not in dropped


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_any_width_become_float32(tmp_path: Path, kind: torch.dtype) -> None:
    dino(tmp_path / "file", {name: value.to(kind) for name, value in weights().items()})
    tensors = read(tmp_path / "file", "dino").tensors
    assert all(value.dtype == torch.float32 for value in tensors.values())
    assert torch.equal(tensors["cls_token"], weights()["cls_token"].to(kind).float())


@EVERY
def test_a_truncated_file_is_refused(tmp_path: Path, layout: str, write: Callable[[Path, Tensors], None]) -> None:
    file = tmp_path / "cut"
    write(file, weights())
    for share in (0.5, 0.98):
        (tmp_path / "short").write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
        with pytest.raises(MethodError, match="short is truncated, damaged or no checkpoint"):
            read(tmp_path / "short", layout)


@pytest.mark.parametrize("write", [dino, google])
def test_a_flipped_bit_in_an_archive_is_refused(tmp_path: Path, write: Callable[[Path, Tensors], None]) -> None:
    file = tmp_path / "file"
    write(file, weights())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(MethodError, match=r"damaged: the checksum of its part '.*' is wrong"):
        read(file, "google" if write is google else "dino")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_that_no_decompressor_reads_is_refused(tmp_path: Path, compression: int) -> None:
    file = tmp_path / "file"
    with zipfile.ZipFile(file, "w", compression) as archive, archive.open("a.npy", "w") as member:
        np.save(member, np.arange(3000.0))
    data, middle = bytearray(file.read_bytes()), file.stat().st_size // 2
    data[middle : middle + 64] = b"\xff" * 64
    file.write_bytes(data)
    with pytest.raises(MethodError, match=r"file is (truncated, )?damaged"):
        read(file, "google")


def test_an_older_file_that_names_a_tensor_without_numbers_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    torch.save({"a": torch.ones(3)}, file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    key = re.findall(rb"\d{9,}", data)[-1]  # the list of keys comes last, before the numbers
    place = data.rindex(key)
    file.write_bytes(data[:place] + b"0" + data[place + 1 :])
    with pytest.raises(MethodError, match="file is truncated, damaged or no checkpoint"):
        read(file, "dino")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><title>404</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"hello, this is no checkpoint", "is no checkpoint"),
        (b"\x80\x05hello", "truncated, damaged or no checkpoint"),
        (b"\x80\x02M\xe9", "truncated, damaged or no checkpoint"),  # a number of two bytes, of which one is there
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(MethodError, match=said):
        read(tmp_path / "file", "dino")


def changed(name: str, value: Any) -> Tensors:
    return weights() | {name: value}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (changed("norm.weight", torch.ones(23)), r"'norm\.weight' has shape \(23,\), expected \(24,\)"),
        (changed("pos_embed", torch.ones(1, 10, 24)), r"'pos_embed' has shape \(1, 10, 24\), .*grid are not resized"),
        (changed("norm.bias", torch.ones(24).int()), r"'norm\.bias' is int32, expected floating-point"),
        (changed("norm.bias", [1.0]), r"'norm\.bias' is list, expected floating-point"),
        (changed("norm.bias", torch.full((24,), torch.nan)), r"'norm\.bias' has values that are not finite"),
        (changed("norm.bias", torch.full((24,), -torch.inf)), r"'norm\.bias' has values that are not finite"),
        (changed("extra.weight", torch.ones(2)), r"does not have: 'extra\.weight'"),
        (weights(depth=7), r"does not have: 'blocks\.6\.norm1\.weight', .* and 9 more"),
        (weights(depth=5), r"lacks 'blocks\.5\.norm1\.weight', .* and 9 more: 12 of"),
        (weights(embed_dim=36), r"'cls_token' has shape \(1, 1, 36\), expected \(1, 1, 24\)"),
        (weights(patch_size=8), r"'pos_embed' has shape \(1, 17, 24\), expected \(1, 5, 24\)"),
        (weights(class_token=False, global_pool="avg", fc_norm=False), r"has no tensor cls_token; at its top it has"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, tensors: Tensors, said: str) -> None:
    dino(tmp_path / "file", tensors)
    with pytest.raises(MethodError, match=said):
        read(tmp_path / "file", "dino")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("embedding/bias", None, r"lacks 'embedding/bias': 1 of"),
        ("Transformer/encoderblock_3/MultiHeadDotProductAttention_1/key/bias", None, r"_3/.*\{query,key,value\}/bias'"),
        (
            "Transformer/encoderblock_6/LayerNorm_0/bias",
            np.ones(24, "f4"),
            r"does not have: 'Transformer/encoderblock_6",
        ),
        (
            "Transformer/posembed_input/pos_embedding",
            np.ones((1, 10, 24), "f4"),
            r"\(1, 10, 24\).*grid are not resized",
        ),
        ("cls", np.array([{}], dtype=object), "Object arrays cannot be loaded"),
    ],
)
def test_google_arrays_that_do_not_fit_are_named(tmp_path: Path, name: str, value: Any, said: str) -> None:
    arrays = google_arrays(weights()) | {name: value}
    with (tmp_path / "file").open("wb") as stream:
        np.savez(stream, **{key: array for key, array in arrays.items() if array is not None})  # type: ignore[arg-type]
    with pytest.raises(MethodError, match=said):
        read(tmp_path / "file", "google")


def test_another_number_of_heads_is_refused_though_the_joined_shapes_agree(tmp_path: Path) -> None:
    google(tmp_path / "file", weights())
    shapes = {name: tuple(value.shape) for name, value in weights().items()}
    with pytest.raises(MethodError, match=r"query/kernel' has shape \(24, 2, 12\), expected \(24, 3, 8\)"):
        convert(tmp_path / "file", "google", shapes, heads=3)


@pytest.mark.parametrize(("layout", "write"), [("dino", google), ("google", dino), ("ibot", timm_safetensors)])
def test_another_kind_of_file_is_refused(tmp_path: Path, layout: str, write: Callable[[Path, Tensors], None]) -> None:
    write(tmp_path / "file", weights())
    with pytest.raises(MethodError, match=r"is a (npz|torch|safetensors) file, expected (torch|npz)"):
        read(tmp_path / "file", layout)


@pytest.mark.parametrize(("layout", "write"), [("ibot", dino), ("dino", ibot), ("moco", ibot), ("timm", moco)])
def test_another_publishers_file_is_refused(
    tmp_path: Path, layout: str, write: Callable[[Path, Tensors], None]
) -> None:
    write(tmp_path / "file", weights())
    with pytest.raises(MethodError, match=r"has no tensor .*; at its top it has"):
        read(tmp_path / "file", layout)


class Bomb:
    """What a hostile checkpoint would hold: unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", ["dino", "ibot", "moco", "timm"])
def test_a_pickle_is_never_run(tmp_path: Path, layout: str, zipped: bool) -> None:
    bomb = {"state_dict": weights(), "bomb": Bomb(tmp_path / "exploded")}
    torch.save(bomb, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    with pytest.raises(MethodError, match=r"names (posix|nt)\.mkdir, which is no tensor: nothing of it was run"):
        read(tmp_path / "file", layout)
    assert not (tmp_path / "exploded").exists()


def test_the_arguments_class_is_allowed_to_one_layout_and_only_while_it_reads(tmp_path: Path) -> None:
    ibot_training(tmp_path / "file", weights())
    read(tmp_path / "file", "ibot")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    with pytest.raises(MethodError, match=r"argparse\.Namespace, which is no tensor"):
        read(tmp_path / "file", "moco")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("notes.txt", "no tensors")
    (tmp_path / "file").write_bytes(held.getvalue())
    with pytest.raises(MethodError, match="truncated, damaged or no checkpoint"):
        read(tmp_path / "file", "dino")


def test_the_hash_is_of_names_shapes_and_values() -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2)}
    first = tensors_sha256(tensors)
    assert first == tensors_sha256(dict(reversed(tensors.items())))
    others = ({"a": torch.arange(6.0).view(2, 3)}, {"a": torch.arange(6.0).double()}, {"a": torch.arange(6.0) + 1})
    assert len({first, *(tensors_sha256(tensors | other) for other in others)}) == 4
    assert first != tensors_sha256({"c": tensors["a"], "b": tensors["b"]})


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": weights() | {3: torch.ones(2)}}, tmp_path / "file")
    with pytest.raises(MethodError, match="does not have: '3'"):
        read(tmp_path / "file", "ibot")
