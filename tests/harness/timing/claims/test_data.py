"""The measurement of stored pictures: what it times and what it reports. The claims themselves are made by the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from smope_bench.benchmarks.image_store.arrays import Encoded, Squeezed
from smope_bench.harness.timing.claims import data as bench_data
from smope_bench.harness.timing.claims.data import made_files, made_picture, made_stream, pixel_difference
from smope_bench.harness.timing.records import Spread


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return made_files(4)


def test_made_pictures_are_seeded_and_have_the_size_of_photographs(files: list[bytes]) -> None:
    assert made_files(2) == files[:2] and len(set(files)) == 4
    assert all(30_000 < len(data) < 100_000 for data in files)
    width, height = made_picture(3).size
    assert 350 <= width <= 450 and 300 <= height <= 400


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_the_report_names_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_data, "BATCH", 3)
    rows = bench_data.bench_data(4, 2)
    assert [row.name.split(":")[0] for row in rows] == ["torchvision"] * 2 + ["stored"] * 4
    assert rows[0]["times_faster"] == Spread(1, 1, 1)
    assert all(0 < row["ms"].least <= row["ms"].median <= row["ms"].most for row in rows)
    assert rows[-1].note.startswith("batches of 3 pictures, files of ") and rows[-1]["train_difference"].is_count
    assert 0 < rows[-1]["test_difference"].median < rows[-1]["train_difference"].median < 4


def test_fast_pictures_are_near_and_nearer_when_kept_larger(files: list[bytes], tmp_path: Path) -> None:
    train, test = pixel_difference(files, tmp_path)
    finer, _ = pixel_difference(files, tmp_path, store_size=400)
    assert 0 < test < train < 4 and finer < train * 0.7


def test_both_modes_hold_the_same_pictures(files: list[bytes], tmp_path: Path) -> None:
    exact, fast = made_stream(files, tmp_path, "exact"), made_stream(files, tmp_path, "fast")
    raw = [stream.tasks[0].train.take(slice(None))[0] for stream in (exact, fast)]
    assert isinstance(raw[0], Encoded) and raw[0].files == tuple(files)
    assert isinstance(raw[1], Squeezed) and raw[1].sizes.tolist() == [[*made_picture(n).size[::-1]] for n in range(4)]
    tested = [stream.transforms.test(stream.tests[0].take(np.arange(4))[0]) for stream in (exact, fast)]
    assert torch.equal(*tested)
