"""Settings of benchmarks: coerced, bounded, and the same however they are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from smope_bench.benchmarks import BUILTIN
from smope_bench.benchmarks.augmentation import Affine, RandomResizedCrop
from smope_bench.benchmarks.base import BenchmarkConfig


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
        ({"split": "4,3,3", "tasks": 5}, "names 3 tasks but tasks=5"),
        ({"split": [4, 0]}, "at least one class"),
        ({"split": []}, "at least one class"),
        ({"split": "4,x"}, "split.1"),
        ({"split": 4}, "split"),
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


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BenchmarkConfig.model_validate({}).tasks = 2


def test_streams_and_benchmarks_need_no_torch() -> None:
    code = (
        "import sys, smope_bench.benchmarks.stream, smope_bench.benchmarks.datasets.digits\n"
        "import smope_bench.benchmarks.datasets.image_folder, smope_bench.benchmarks.image_store.picture_benchmark\n"
        "print([name for name in ('torch', 'sklearn', 'pandas', 'avalanche') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_names_every_file_in_one_form() -> None:
    assert all(
        re.fullmatch(rf"smope_bench\.benchmarks\.datasets\.{name.replace('imagefolder', 'image_folder')}:\w+", target)
        for name, target in BUILTIN.items()
    )
