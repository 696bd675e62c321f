"""Runs that meet another type of device than the one that began them, and devices that fail in the middle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.job import describe_error
from smope_bench.harness.hardware.device_lost import DeviceLost, is_device_lost
from smope_bench.harness.records.record import Record, with_checksum
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.methods.common.vit.vit import PromptedViT
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.resumed import (  # pyright: ignore[reportMissingImports]
    Hoarder,
    assert_same,
    cut,
    events,
    finish,
    place_of,
)

SPEC = micro_spec("hoarder")
A100 = {"type": "cuda", "name": "NVIDIA A100", "index": 0}


@pytest.fixture(autouse=True)
def _plugin(registries: Registries) -> None:
    registries.methods.add("hoarder", "tests", Hoarder)


def begun_on_cuda(registries: Registries, folder: Path, saves: int) -> list[Path]:
    """Checkpoints of a run that died, as if a GPU had made them."""
    files = sorted(cut(SPEC, registries, folder, saves).glob("*.json"))
    for file in files:
        marker = json.loads(file.read_text()) | {"device": "cuda"}
        marker["progress"]["devices"] = [A100]
        file.write_text(json.dumps(with_checksum(marker)))
    return files


def record(folder: Path) -> dict[str, Any]:
    found = Store(folder).load(SPEC.run_id)
    assert isinstance(found, Record)
    return dict(found.result)


def test_a_run_of_another_device_is_refused_and_kept(registries: Registries, tmp_path: Path) -> None:
    files = begun_on_cuda(registries, tmp_path, 30)
    before = [file.read_bytes() for file in files]
    with pytest.raises(UserError, match=r"begun on cuda \(NVIDIA A100\) .*--device cuda.*--allow-device-change"):
        finish(SPEC, registries, tmp_path)
    assert [file.read_bytes() for file in files] == before


def test_a_change_goes_on_from_the_last_task_and_marks_the_record(registries: Registries, tmp_path: Path) -> None:
    whole = finish(SPEC, registries, tmp_path / "whole")
    begun_on_cuda(registries, tmp_path / "moved", 30)
    moved = finish(SPEC, registries, tmp_path / "moved", allow_device_change=True)
    assert_same(whole, moved)  # the task under way was done again, from its start
    found = record(tmp_path / "moved")
    assert found["device_changes"] == [{"from": "cuda", "to": "cpu", "task": 1}]
    assert [device["type"] for device in found["devices"]] == ["cuda", "cpu"] and found["flags"]["device_changed"]
    plain = record(tmp_path / "whole")
    assert [device["type"] for device in plain["devices"]] == ["cpu"]
    assert "device_changes" not in plain and "device_changed" not in plain["flags"]


def test_before_the_first_task_has_ended_nothing_is_taken_over(registries: Registries, tmp_path: Path) -> None:
    begun_on_cuda(registries, tmp_path, 3)
    finish(SPEC, registries, tmp_path, allow_device_change=True)
    assert [device["type"] for device in record(tmp_path)["devices"]] == ["cpu"]
    assert "device_changes" not in record(tmp_path)


def test_the_first_event_names_the_device(registries: Registries, tmp_path: Path) -> None:
    finish(SPEC, registries, tmp_path)
    first = events(tmp_path, SPEC)[0]
    assert first["event"] == "run_started" and first["device"]["type"] == "cpu" and first["device"]["name"]
    assert first["precision"] == "fp32" and "precision_remark" not in first


def test_a_device_that_fails_ends_the_run_in_one_sentence_and_it_goes_on(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, forward, left = finish(SPEC, registries, tmp_path / "whole"), PromptedViT.forward, [17]

    def fails(backbone: PromptedViT, images: Tensor, *rules: Any) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported")
        return forward(backbone, images, *rules)

    with monkeypatch.context() as patch:
        patch.setattr(PromptedViT, "forward", fails)
        with pytest.raises(
            DeviceLost, match=r"failed in task \d: CUDA error: unspecified launch failure; the run is saved"
        ) as lost:
            finish(SPEC, registries, tmp_path, checkpoint_every_s=0.0)
    assert describe_error(lost.value)["kind"] == "DeviceLost"
    assert place_of(SPEC, registries, tmp_path) is not None
    assert_same(whole, finish(SPEC, registries, tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: unspecified launch failure", True),
        ("CUDA error: the launch timed out and was terminated", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("No CUDA GPUs are available", True),
        ("CUDA error: out of memory", False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", False),
        ("CUDA error: device-side assert triggered", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_which_errors_are_of_the_device(text: str, expected: bool) -> None:
    assert is_device_lost(RuntimeError(text)) is expected
    outer = ValueError("outside")
    outer.__cause__ = RuntimeError(text)
    assert is_device_lost(outer) is expected and not is_device_lost(ValueError(text))
