"""The tiny backbone: its pre-training classes overlap no benchmark, and the committed weights are what they claim."""

import hashlib
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smope_bench.benchmarks.datasets.glyph_rendering import coverage
from smope_bench.benchmarks.datasets.glyphs import CHARACTERS
from smope_bench.harness.maintenance.pretraining import tiny as pretrain_tiny
from smope_bench.harness.maintenance.pretraining import tiny_gates
from smope_bench.harness.maintenance.pretraining.tiny import (
    ARCHITECTURE,
    WEIGHTS,
    GlyphSource,
    PretrainRecipe,
    build,
    export,
    learning_rate,
    train,
)
from smope_bench.harness.maintenance.pretraining.tiny_classes import (
    DIGITS,
    FORBIDDEN,
    LOOK_ALIKE,
    look_alikes,
    pretraining_characters,
)
from smope_bench.methods.common.backbone.backbones import TINY, StoredBackbone
from smope_bench.methods.common.errors import MethodError

MICRO = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 6, "num_heads": 2, "num_classes": 0}
DESCRIBED = json.loads((WEIGHTS / "tiny_vit.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def learned() -> str:
    return DESCRIBED["characters"]


def micro_run(steps: int = 3) -> tuple[nn.Module, list[float]]:
    losses: list[float] = []
    source = GlyphSource("NPrt", 32, pretrain_tiny.TRAINING_MIX, seed=1)
    recipe = PretrainRecipe(steps=steps, batch=8, warmup=2)
    average = train(recipe, source, build(MICRO, 4, seed=1), lambda step, loss, right, model: losses.append(loss))
    return average, losses


def test_no_code_point_is_shared_with_a_benchmark(learned: str) -> None:
    assert len(learned) == len(set(learned)) == PretrainRecipe().classes
    for character in learned:
        parts = unicodedata.normalize("NFKD", character)
        assert not set(parts) & set(FORBIDDEN), unicodedata.name(character)
        assert unicodedata.category(character)[0] != "N"
        assert not any(part.isdigit() or part.isnumeric() for part in parts)


def test_no_pretraining_class_looks_like_a_digit_or_a_glyph(learned: str) -> None:
    assert look_alikes(learned).max() < LOOK_ALIKE


def test_look_alikes_of_other_scripts_are_refused() -> None:
    twins = "АОοОօЗО"  # Cyrillic, Greek and Armenian shapes of A, 0 and 3
    assert look_alikes(twins).min() > LOOK_ALIKE
    assert set(DIGITS) | set(CHARACTERS) == set(FORBIDDEN)


def test_the_script_refuses_benchmark_classes_and_keeps_the_learned_ones(
    learned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = frozenset(map(ord, FORBIDDEN + learned[:100] + "ÁôАοⅣ②"))
    monkeypatch.setattr(
        "smope_bench.harness.maintenance.pretraining.tiny_classes.coverage", lambda face: offered & coverage(face)
    )
    assert "".join(pretraining_characters(400)) == learned[:100]


def test_a_micro_run_is_the_same_twice_and_moves_the_weights() -> None:
    (first, losses), (second, _) = micro_run(), micro_run()
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
    fresh = build(MICRO, 4, seed=1)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), fresh.parameters(), strict=True))
    assert len(losses) == 3
    assert np.isfinite(losses).all()


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = PretrainRecipe(steps=1000, warmup=100, cooldown=0.4, lr=1.0)
    rates = [learning_rate(step, recipe) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[100] == rates[599] == 1.0
    assert rates[-1] == pytest.approx(1 / 400)
    assert np.diff(rates[600:]).max() < 0


def test_exported_weights_load_by_name_and_hash(tmp_path: Path) -> None:
    model = build(MICRO, 4, seed=0)
    export(model, tmp_path, {"architecture": MICRO})
    backbone = StoredBackbone("micro", "", tmp_path / "tiny_vit.json")
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.allclose(backbone.load()(pictures), model[0].eval()(pictures), atol=2e-2)
    (tmp_path / "tiny_vit.safetensors").write_bytes(b"altered")
    with pytest.raises(MethodError, match="SHA-256"):
        backbone.load()


def test_committed_weights_are_small_and_have_their_hash() -> None:
    data = (WEIGHTS / "tiny_vit.safetensors").read_bytes()
    assert len(data) <= 5_000_000
    assert hashlib.sha256(data).hexdigest() == DESCRIBED["sha256"]
    assert DESCRIBED["architecture"] == ARCHITECTURE
    assert ARCHITECTURE["depth"] >= 6


def test_recorded_gates_hold_and_the_digits_are_measured_again() -> None:
    recorded = DESCRIBED["gates"]
    assert all(tiny_gates.verdicts(recorded).values())
    found = tiny_gates.digits_gate(TINY.load(), splits=2)
    assert found["digits_ncm"] == pytest.approx(recorded["digits_ncm"], abs=0.02)
    assert found["digits_ridge"] == pytest.approx(recorded["digits_ridge"], abs=0.01)


def test_nearest_mean_and_ridge_separate_what_is_separable() -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 4
    points = 4 * torch.eye(4)[labels] + 0.1 * torch.randn(40, 4)
    parts = (points[:20], labels[:20], points[20:], labels[20:])
    assert tiny_gates.nearest_mean(*parts) == 1
    assert tiny_gates.ridge(*parts) == 1


def test_a_prompt_and_a_head_learn_together() -> None:
    backbone = StoredBackbone("tiny", "", WEIGHTS / "tiny_vit.json").load()
    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8) % 2
    recipe = tiny_gates.JointRecipe(epochs=30, batch=8, length=2)
    head, prefix = tiny_gates.train_head(backbone, images, labels, recipe, prompted=True)
    assert prefix is not None
    assert tiny_gates.accuracy(backbone, head, prefix, images, labels) == 100


def test_the_command_asks_for_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretrain_tiny.main([])
    assert "--out" in capsys.readouterr().err
