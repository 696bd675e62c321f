"""Queries are computed once an image and kept: what is found is what would be made, to the bit, or it is made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smope_bench.benchmarks.stream import Stream, build_stream
from smope_bench.harness import provenance
from smope_bench.harness.conformance.fixtures import ColouredNoise
from smope_bench.harness.training.batches.feature_cache import CHUNK, FrozenFeatureCache
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT

CPU = torch.device("cpu")


def stream_of(tmp_path: Path, order: int = 0, *, for_search: bool = False) -> Stream:
    config = {"tasks": 3, "image_size": 16, **({"holdout": 0.2} if for_search else {})}
    benchmark = ColouredNoise(ColouredNoise.Config(**config), tmp_path)
    benchmark.prepare()
    return build_stream(benchmark, order, for_search=for_search)


def queries(vit: PromptedViT, stream: Stream, folder: Path | None, **changes: str) -> FrozenFeatureCache:
    given = {"weights": "w", "precision": "fp32"} | changes
    return FrozenFeatureCache(vit, stream, CPU, folder, given["weights"], given["precision"])


def test_what_is_found_is_what_was_made(micro_vit: PromptedViT, tmp_path: Path, counted: list[int]) -> None:
    stream = stream_of(tmp_path)
    views = [stream.tasks[0].train, *stream.tests]
    made = [queries(micro_vit, stream, tmp_path / "q").of(view) for view in views]
    assert counted and sum(counted) >= len(views[0])
    counted.clear()
    found = [queries(micro_vit, stream, tmp_path / "q").of(view) for view in views]
    assert counted == []
    bare = queries(micro_vit, stream, None)
    assert all(
        torch.equal(a, b) and torch.equal(a, bare.of(view)) for a, b, view in zip(made, found, views, strict=True)
    )


def test_queries_are_those_of_the_images_in_the_order_of_the_view(micro_vit: PromptedViT, tmp_path: Path) -> None:
    stream = stream_of(tmp_path)
    view = stream.tasks[1].train
    raw, _ = view.take(slice(None))
    expected = micro_vit.features(stream.transforms.test(raw, CPU))
    assert torch.allclose(queries(micro_vit, stream, None).of(view), expected, atol=1e-5)
    assert not torch.allclose(expected, expected.flip(0), atol=1e-2), "the order must be visible in the values"


def test_class_orders_share_them_to_the_bit(micro_vit: PromptedViT, tmp_path: Path, counted: list[int]) -> None:
    first, second = stream_of(tmp_path, 0), stream_of(tmp_path, 1)
    assert first.class_order != second.class_order
    for task in first.tasks:
        queries(micro_vit, first, tmp_path / "q").of(task.train)
    counted.clear()
    shared = [queries(micro_vit, second, tmp_path / "q").of(task.train) for task in second.tasks]
    assert counted == []
    alone = queries(micro_vit, second, None)
    assert all(torch.equal(values, alone.of(task.train)) for values, task in zip(shared, second.tasks, strict=True))


def flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


@pytest.mark.parametrize("damage", [lambda data: data[:-3], flipped, lambda _: b""])
def test_a_damaged_chunk_is_made_anew(
    micro_vit: PromptedViT, tmp_path: Path, counted: list[int], damage: Callable[[bytes], bytes]
) -> None:
    stream = stream_of(tmp_path)
    made = queries(micro_vit, stream, tmp_path / "q").of(stream.tests[0])
    file = next((tmp_path / "q").rglob("test-00000.queries"))
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    counted.clear()
    assert torch.equal(queries(micro_vit, stream, tmp_path / "q").of(stream.tests[0]), made)
    assert counted and file.read_bytes() == whole


@pytest.mark.parametrize("changes", [{"weights": "other"}, {"precision": "bf16"}])
def test_other_weights_or_precision_share_nothing(
    micro_vit: PromptedViT, tmp_path: Path, counted: list[int], changes: dict[str, str]
) -> None:
    stream = stream_of(tmp_path)
    queries(micro_vit, stream, tmp_path / "q").of(stream.tests[0])
    counted.clear()
    queries(micro_vit, stream, tmp_path / "q", **changes).of(stream.tests[0])
    assert counted and len(list((tmp_path / "q").iterdir())) == 2


def test_what_older_code_kept_is_not_trusted_and_removed(
    micro_vit: PromptedViT, tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_of(tmp_path)
    queries(micro_vit, stream, tmp_path / "q").of(stream.tests[0])
    (old,) = (tmp_path / "q").iterdir()
    monkeypatch.setattr(provenance, "code_fingerprint", lambda: "f" * 64)
    counted.clear()
    queries(micro_vit, stream, tmp_path / "q").of(stream.tests[0])
    assert counted and not old.exists() and len(list((tmp_path / "q").iterdir())) == 1


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(micro_vit: PromptedViT, tmp_path: Path) -> None:
    stream = stream_of(tmp_path)
    (tmp_path / "q").write_text("a file where the folder should be")
    found = queries(micro_vit, stream, tmp_path / "q").of(stream.tests[0])
    assert torch.equal(found, queries(micro_vit, stream, None).of(stream.tests[0]))


def test_what_is_computed_a_few_images_at_a_time_is_not_kept(tmp_path: Path) -> None:
    """Its last bits differ, and runs with enough memory would find it."""
    stream, vit = stream_of(tmp_path), MICRO.load()
    vit.memory = MemoryPlan(micro_batch=1)
    queries(vit, stream, tmp_path / "q").of(stream.tests[0])
    assert not list(tmp_path.glob("q/*/*.queries"))
    vit.memory = MemoryPlan()
    queries(vit, stream, tmp_path / "q").of(stream.tests[0])
    assert list(tmp_path.glob("q/*/*.queries"))


def test_a_search_has_no_name_for_its_images(tmp_path: Path) -> None:
    assert stream_of(tmp_path).content_hash and stream_of(tmp_path, for_search=True).content_hash == ""


def test_only_the_chunks_that_a_view_touches_are_computed(
    micro_vit: PromptedViT, tmp_path: Path, counted: list[int]
) -> None:
    stream = stream_of(tmp_path)
    images = stream.tests[0].images
    queries(micro_vit, stream, None).of(stream.tests[0])
    touched = np.unique(stream.tests[0].rows // CHUNK)
    assert len(counted) == len(touched) and sum(counted) <= len(images)
