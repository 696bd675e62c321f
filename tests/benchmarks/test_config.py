"""Settings of benchmarks: coerced, bounded, and the same however they are written."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from smope_bench.benchmarks import BUILTIN
from smope_bench.benchmarks.augmentation import Affine, RandomResizedCrop
from smope_bench.benchmarks.base import BenchmarkConfig


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


NPY, NPY_FLOATS = npy(np.arange(10)), npy(np.linspace(0, 1, 10))


def test_defaults_survive_json() -> None:
    config = BenchmarkConfig.model_validate({})
    assert BenchmarkConfig.model_validate_json(config.model_dump_json()) == config
    assert config.augment.kind == "none"


@pytest.mark.parametrize("split", ["4,3,3", [4, 3, 3], (4, 3, 3), "4, 3, 3"])
def test_split_says_how_many_tasks(split: object) -> None:
    config = BenchmarkConfig.model_validate({"split": split})
    assert (config.tasks, config.split) == (3, (4, 3, 3))
    assert BenchmarkConfig.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"split": "4,3,3", "tasks": 5}, "has 3 tasks but tasks=5; leave out one"),
        ({"split": [4, 0]}, "at least one class"),
        ({"split": []}, "at least one class"),
        ({"split": "4,x"}, "'x' is no number of classes"),
        ({"split": "B50-Inc10"}, "write 50,10xN with the number N"),
        ({"split": "1x1000000"}, "more than 10,000 tasks"),
        ({"split": "9" * 5000}, "is no number of classes"),
        ({"tasks": 10**9}, "less than or equal to 10000"),
        ({"class_order": "shufled"}, "one of shuffled, natural_first, natural, numpy, numpy_inverse, a list"),
        ({"class_order": [0, 2, 0]}, "class 0 occurs twice, at places 1 and 3"),
        ({"class_order": [0, "a"]}, "entry 2, 'a', is no class id"),
        ({"class_order": [0, True]}, "entry 2, True, is no class id"),
        ({"class_order": [[0]]}, "entry 1, .* is no class id"),
        ({"class_order": []}, "there is no class"),
        ({"class_order": {}}, "a class order is one of"),
        ({"class_order": "no/such.npy"}, "'no/such.npy' does not exist"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"split": True}, "split"),
        ({"tasks": 0}, "greater than or equal to 1"),
        ({"tusks": 5}, "tusks"),
        ({"image_size": 4}, "image_size"),
        ({"normalize": "zscore"}, "'none', 'imagenet', 'half' or 'cifar100'"),
        ({"image_size": 384, "test_resize": 256}, "test_resize=256 leaves no square of image_size=384"),
        ({"test_interpolation": "nearest"}, "'bilinear' or 'bicubic'"),
        ({"augment": {"kind": "random_resized_crop", "brightness": 1.5}}, "brightness"),
        ({"augment": {"kind": "cutmix"}}, "'affine'"),
        ({"augment": {"kind": "affine", "shift": 0.9}}, "shift"),
        ({"augment": {"kind": "affine", "shift": float("nan")}}, "shift"),
        ({"augment": {"kind": "none", "shift": 0.1}}, "shift"),
        ({"augment": {"kind": "random_resized_crop", "scale": [0.5, 0.1]}}, "must rise"),
        ({"augment": {"kind": "random_resized_crop", "scale": [0.0, 1.0]}}, "must rise"),
        ({"augment": {"kind": "random_resized_crop", "ratio": [-1, 1]}}, "must be positive"),
    ],
)
def test_bad_settings_are_named(bad: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        BenchmarkConfig.model_validate(bad)


def test_whole_numbers_and_fractions_give_one_identity() -> None:
    assert Affine.model_validate({"shift": 0}).model_dump_json() == Affine(shift=0.0).model_dump_json()
    crops = [RandomResizedCrop.model_validate({"scale": scale}) for scale in ([1, 1], (1.0, 1.0))]
    assert crops[0].model_dump_json() == crops[1].model_dump_json()


@pytest.mark.parametrize(("text", "sizes"), [("50,10x5", (50, *[10] * 5)), ("1x4", (1,) * 4), (["2x2", 3], (2, 2, 3))])
def test_equal_tasks_of_a_split_may_be_counted(text: object, sizes: tuple[int, ...]) -> None:
    config = BenchmarkConfig.model_validate({"split": text})
    assert (config.split, config.tasks) == (sizes, len(sizes))


def test_a_limit_is_stated_only_where_there_is_one() -> None:
    assert "limit" not in BenchmarkConfig().model_dump() and '"limit"' not in BenchmarkConfig().model_dump_json()
    limited = BenchmarkConfig(limit=3)
    assert limited.model_dump()["limit"] == 3
    assert BenchmarkConfig.model_validate_json(limited.model_dump_json()) == limited


def test_an_order_is_read_from_a_file_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("2\n0\n\n1\n")
    (tmp_path / "b.json").write_text("[2, 0, 1]")
    np.save(tmp_path / "c.npy", np.array([2, 0, 1]))
    (tmp_path / "names.txt").write_text("cat\nblack bee\n7\n")
    orders = [
        BenchmarkConfig.model_validate({"class_order": str(file)}).class_order for file in sorted(tmp_path.iterdir())
    ]
    assert orders == [(2, 0, 1)] * 3 + [("cat", "black bee", "7")]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.txt", b"\xff\xfe\x00", "it is not UTF-8 text"),
        ("a.txt", b"", "there is no class in"),
        ("a.txt", b"0\n1\n0\n", "class 0 occurs twice in .* at places 1 and 3"),
        ("a.json", b"[0, 1", "cannot be read as a class order"),
        ("a.json", b"[" * 100_000, "cannot be read as a class order"),
        ("a.json", b'{"a": 1}', "must hold one list"),
        ("a.npy", NPY[:-9], "cannot be read as a class order"),
        ("a.npy", NPY[:40], "cannot be read as a class order"),
        ("a.npy", b"\x80\x04junk", "cannot be read as a class order"),
        ("a.npy", NPY_FLOATS, "no vector of whole numbers"),
        ("a.txt", b"0\n" * 2_500_000, "more than 4 MB"),
    ],
)
def test_a_file_that_holds_no_order_is_refused(name: str, content: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValidationError, match=fault):
        BenchmarkConfig.model_validate({"class_order": str(tmp_path / name)})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BenchmarkConfig.model_validate({}).tasks = 2


def test_streams_and_benchmarks_need_no_torch() -> None:
    code = (
        "import sys, smope_bench.benchmarks.stream, smope_bench.benchmarks.datasets.digits\n"
        "import smope_bench.benchmarks.datasets.folders.image_folder, smope_bench.benchmarks.image_store.picture_benchmark\n"
        "print([name for name in ('torch', 'sklearn', 'pandas', 'avalanche') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_names_every_file_in_one_form() -> None:
    files = {"imagefolder": "image_folder", "domainnet_classes": "domainnet", "domainnet_200": "domainnet"}
    assert all(
        re.fullmatch(rf"smope_bench\.benchmarks\.datasets\.((folders|published)\.)?{files.get(name, name)}:\w+", target)
        for name, target in BUILTIN.items()
    )
