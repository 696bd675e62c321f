"""Observers: they change no number, survive interruptions, and are asked for, kept and read as their names say."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from smope_bench.benchmarks.stream import View
from smope_bench.harness.cli.commands.listing import list_plan
from smope_bench.harness.execution.job import Job, train
from smope_bench.harness.execution.scheduler import partition_finished
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.records.observations import read_observations
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training import trainer as engine
from smope_bench.harness.training.batches.data import load_backbone
from smope_bench.harness.training.observer import evenly_chosen_images, undisturbed
from smope_bench.methods.common.api import Batch
from smope_bench.methods.common.prefix import PlainPrefix
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.observed import (  # pyright: ignore[reportMissingImports]
    EVERYTHING,
    OF_IMAGES,
    OF_STATE,
    SMOPE,
    Moody,
    Silent,
    held_out,
    run,
)
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]


@pytest.fixture(autouse=True)
def _silent(registries: Registries) -> None:
    registries.methods.add("silent", "tests", Silent)


class Killed(BaseException):
    """Stands for the power failing."""


def kill_in(task: int) -> Any:
    def pull_the_plug(event: dict[str, Any]) -> None:
        if event["event"] == "task_started" and event["task"] == task:
            raise Killed

    return pull_the_plug


# -- no number changes -------------------------------------------------------------------------------------------------


def test_nothing_is_asked_of_a_run_that_is_not_observed(registries: Registries, tmp_path: Path) -> None:
    record = run(micro_spec("silent"), registries, tmp_path)
    assert "observations" not in record.result and record.observes == frozenset()
    assert not (tmp_path / record.run_id / "observations.npz").exists()
    with pytest.raises(AssertionError, match="asked"):
        run(micro_spec("silent", train_seed=1), registries, tmp_path, "mood")


@pytest.mark.parametrize(
    ("method", "config", "observe", "precision"),
    [
        ("smope", SMOPE, EVERYTHING, "fp32"),
        ("smope", SMOPE, EVERYTHING, "bf16"),
        ("silent", {}, ("validation_loss",), "fp32"),
        ("joint", {}, ("validation_loss",), "fp32"),
        ("dualprompt", {}, ("validation_loss", "prompt_mass"), "fp32"),
        ("hash_prompt", {}, ("prompt_mass",), "bf16"),
        ("cpg", {}, ("prompt_mass",), "fp32"),
    ],
)
def test_observing_changes_no_bit(
    registries: Registries,
    tmp_path: Path,
    method: str,
    config: dict[str, Any],
    observe: tuple[str, ...],
    precision: str,
) -> None:
    spec = held_out(method, config, precision=precision)
    outcomes = []
    for names in ((), observe):
        states: list[bytes] = []
        learned: list[bytes] = []
        folder = tmp_path / str(len(names))

        def note(
            event: dict[str, Any],
            states: list[bytes] = states,
            learned: list[bytes] = learned,
            folder: Path = folder,
        ) -> None:
            if event["event"] in ("epoch", "task_started", "task_evaluated"):
                states.append(torch.get_rng_state().numpy().tobytes() + repr(np.random.get_state()).encode())

            if event["event"] == "run_finished":
                learned.extend(
                    file.read_bytes() for file in sorted((folder / spec.run_id / "checkpoint").glob("*.safetensors"))
                )

        record = run(spec, registries, folder, *names, on_event=note)
        assert learned
        predictions = (folder / record.run_id / "predictions.npz").read_bytes()
        costs = {
            key: value
            for key, value in record.result["costs"].items()
            if key not in ("peak_memory_mb", "memory_increase_mib")
        }
        outcomes.append((record.result["accuracy_matrix"], predictions, learned, costs, states))
    assert outcomes[0] == outcomes[1]


def test_a_look_leaves_modes_and_generators_as_they_were() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval()).train()
    module[1].eval()
    before = (torch.get_rng_state(), repr(np.random.get_state()), random.getstate())
    with pytest.raises(KeyError), undisturbed(module, torch.device("cpu")):
        assert not module[0].training and not torch.is_grad_enabled()
        assert torch.rand(1) < 1 and np.random.rand() < 1 and random.random() < 1
        raise KeyError
    assert [m.training for m in module.modules()] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (repr(np.random.get_state()), random.getstate()) == before[1:] and torch.is_grad_enabled()


# -- what is observed --------------------------------------------------------------------------------------------------


def test_experts_are_observed_as_their_names_say(registries: Registries, tmp_path: Path) -> None:
    record = run(micro_spec("smope", SMOPE), registries, tmp_path, *OF_STATE, *OF_IMAGES)
    found = read_observations(Store(tmp_path), record.run_id)
    assert {name: array.shape for name, array in found.items()} == {
        "activation_counts": (3, 6, 2, 25),
        "prefix_keys": (3, 6, 2, 25, 12),
        "expert_scores": (132, 2, 25),
        "head_inputs": (132, 2, 12),
        "head_keys": (132, 2, 12),
        "observed_labels": (132,),
    }
    counts, keys = found["activation_counts"], found["prefix_keys"]
    assert (counts.sum(axis=-1) == np.array([1, 2, 3])[:, None, None] * 5 * 24).all()
    assert (np.diff(counts, axis=0) >= 0).all()
    assert not np.array_equal(keys[0], keys[1])
    scores = np.einsum("bhe,hpe->bhp", found["head_inputs"], keys[-1, 0])
    np.testing.assert_allclose(found["expert_scores"], scores, rtol=1e-4, atol=1e-5)
    assert np.bincount(found["observed_labels"]).tolist() == [22] * 6
    assert record.result["observations"]["names"] == sorted((*OF_STATE, *OF_IMAGES))


def test_validation_loss_is_what_it_says(registries: Registries, tmp_path: Path) -> None:
    spec, expected = held_out("smope", SMOPE), []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            expected.append((event["task"], event["phase"], by_hand(event["task"])))

    def by_hand(number: int) -> float:
        view, first = session.stream.tasks[number].validation, 2 * number
        assert len(view) == 6 and set(view.labels.tolist()) == {first, first + 1}
        losses = []
        for position, label in enumerate(view.labels):
            pixels, _ = view.take([position])
            with torch.no_grad():
                image = session.stream.transforms.test(torch.from_numpy(pixels))
                pair = session.method.predict(Batch(image))[0, first : first + 2]
            losses.append(float(pair.logsumexp(0) - pair[label - first]))
        return sum(losses) / len(losses)

    with engine.Trainer(
        spec, *given(tmp_path, on_event=note), registries=registries, observe=["validation_loss"]
    ) as session:
        session.run_tasks()
        session.publish("now")
    found = read_observations(Store(tmp_path), spec.run_id)
    assert found["validation_loss.task"].tolist() == [0] * 4 + [1] * 3 + [2] * 3
    assert found["validation_loss.phase"].tolist() == ["dense"] * 2 + ["sparse"] * 8
    assert found["validation_loss.epoch"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]
    after = found["validation_loss.epoch"] > 0
    measured = zip(*(found[f"validation_loss.{part}"][after].tolist() for part in ("task", "phase")), strict=True)
    assert list(measured) == [entry[:2] for entry in expected]
    np.testing.assert_allclose(found["validation_loss.loss"][after], [loss for *_, loss in expected], rtol=1e-5)


def test_prompt_mass_is_measured_before_training_and_after_every_task(registries: Registries, tmp_path: Path) -> None:
    record = run(micro_spec("one_prompt"), registries, tmp_path, "prompt_mass")
    found = read_observations(Store(tmp_path), record.run_id)
    done, block, share = (found[f"prompt_mass.{part}"] for part in ("tasks_done", "block", "share"))
    assert done.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6 and block.tolist() == list(range(6)) * 4
    assert 0 < share.min() < share.max() < 1 and len(set(share.tolist())) == len(share)
    assert record.result["observations"]["names"] == ["prompt_mass"]


def test_prompt_mass_has_no_start_where_nothing_can_be_predicted_before_training(
    registries: Registries, tmp_path: Path
) -> None:
    class Late(Moody):
        """One equal prefix key for all heads of the first block, once a task has ended."""

        name: ClassVar[str] = "late"

        def predict(self, batch: Batch) -> torch.Tensor:
            super().predict(batch)
            pair = torch.zeros(self.backbone.num_heads, 1, self.backbone.head_dim)
            return self.head(self.backbone(batch.images, {0: PlainPrefix(pair, pair)}))[:, : self.seen_classes]

    registries.methods.add("late", "tests", Late)
    record = run(micro_spec("late"), registries, tmp_path, "prompt_mass")
    found = read_observations(Store(tmp_path), record.run_id)
    assert found["prompt_mass.tasks_done"].tolist() == [1, 2, 3] and found["prompt_mass.block"].tolist() == [0] * 3
    assert found["prompt_mass.share"] == pytest.approx([1 / 6] * 3, rel=0.2)


@pytest.mark.parametrize(("method", "warns"), [("one_prompt", True), ("ncm", False), ("ease", False)])
def test_the_first_event_warns_where_prompts_are_nearly_inert(
    method: str, warns: bool, registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keys along the queries by their biases; once more without, as the backbone is."""
    events: list[dict[str, Any]] = []
    for seed, size in ((0, 5.0), (1, 0.0)):

        def biased(*given: Any, size: float = size) -> Any:
            vit = load_backbone(*given)
            for attention in vit.attentions:
                bias: Any = attention.qkv.bias
                bias.data.view(3, -1)[:2] = size * torch.tensor([1.0, -1.0]).repeat(12)
            return vit

        monkeypatch.setattr(engine, "load_backbone", biased)
        spec = micro_spec(method, train_seed=seed)
        with engine.Trainer(spec, *given(tmp_path, on_event=events.append), registries=registries):
            pass
    assert [event["event"] for event in events] == ["run_started"] * 2
    assert ("prompts are nearly inert here" in events[0].get("prompt_remark", "")) == warns
    assert "prompt_remark" not in events[1]


def test_images_are_spread_evenly_and_the_same_each_time() -> None:
    images = np.zeros((60, 2, 2, 3), dtype=np.uint8)
    views = [
        View(images, np.arange(20), np.repeat([0, 1], 10)),
        View(images, np.arange(20, 60), np.repeat([2, 3, 4, 5], 10)),
    ]
    chosen = evenly_chosen_images(views, 33)
    assert [view.rows.tolist() for view in chosen[:1]] == [[0, 2, 4, 6, 8, 10, 12, 14, 16, 18]]
    assert np.bincount(np.concatenate([view.labels for view in chosen])).tolist() == [5] * 6
    assert sum(map(len, evenly_chosen_images(views, 1000))) == 60
    assert [view.labels.tolist() for view in evenly_chosen_images(views, 3)] == [[0], [2, 4]]


# -- interruptions and several suites ----------------------------------------------------------------------------------


def test_a_killed_run_observes_what_it_would_have(registries: Registries, tmp_path: Path) -> None:
    spec = held_out("smope", SMOPE)
    whole = run(spec, registries, tmp_path / "whole", *EVERYTHING)
    with pytest.raises(Killed):
        run(spec, registries, tmp_path / "cut", *EVERYTHING, on_event=kill_in(2))
    started: list[int] = []
    resumed = run(
        spec,
        registries,
        tmp_path / "cut",
        *EVERYTHING,
        on_event=lambda event: started.append(event["task"]) if event["event"] == "task_started" else None,
    )
    assert started == [2]
    assert resumed.result["observations"] == whole.result["observations"]
    cut, full = (Store(tmp_path / side) for side in ("cut", "whole"))
    assert cut.observations(resumed) == full.observations(whole) is not None


@pytest.mark.parametrize(("before", "now", "starts"), [(OF_STATE, (), [2]), ((), OF_STATE, [0, 1, 2])])
def test_a_checkpoint_is_continued_only_with_all_it_must_have_seen(
    registries: Registries, tmp_path: Path, before: tuple[str, ...], now: tuple[str, ...], starts: list[int]
) -> None:
    spec, started = micro_spec("smope", SMOPE), []
    with pytest.raises(Killed):
        run(spec, registries, tmp_path, *before, on_event=kill_in(2))

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "task_started":
            started.append(event["task"])

    record = run(spec, registries, tmp_path, *now, on_event=note)
    assert started == starts and record.observes == set(OF_STATE)
    assert read_observations(Store(tmp_path), spec.run_id)["activation_counts"].shape == (3, 6, 2, 25)


def test_two_suites_do_not_fight_over_a_run(registries: Registries, tmp_path: Path) -> None:
    spec = micro_spec("smope", SMOPE)
    first = run(spec, registries, tmp_path, "activation_counts")
    second = run(spec, registries, tmp_path, "expert_scores")
    assert second.observes == {"activation_counts", "expert_scores"}
    assert second.result["accuracy_matrix"] == first.result["accuracy_matrix"]
    assert run(spec, registries, tmp_path).observes == second.observes


def test_plan_execution_and_store_agree_on_what_is_done(registries: Registries, tmp_path: Path) -> None:
    store, spec = Store(tmp_path), micro_spec("smope", SMOPE)
    table = PlannedRun("table", "S", "smope", "noise", spec)
    figure = replace(table, suite="figure", observe=("activation_counts",))
    other = replace(table, suite="other", observe=("head_keys", "activation_counts"))

    def seen(*runs: PlannedRun) -> tuple[list[tuple[str, ...]], list[str]]:
        to_do, _ = partition_finished(runs, store)
        return [one.observe for one in to_do], [row["state"] for row in list_plan(runs, store, registries, tmp_path)]

    assert seen(table, figure) == ([("activation_counts",)], ["new", "new"])
    run(spec, registries, tmp_path)
    assert seen(table) == ([], ["done"])
    assert seen(figure, table) == ([("activation_counts",)], ["stale", "stale"])
    run(spec, registries, tmp_path, "activation_counts")
    assert seen(table, figure) == ([], ["done", "done"])
    assert seen(figure, other) == ([("activation_counts", "head_keys")], ["stale", "stale"])
    (tmp_path / spec.run_id / "observations.npz").write_bytes(b"other")
    assert seen(table) == ([], ["done"]) and seen(figure)[1] == ["stale"]


def test_names_reach_the_engine_from_a_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    received: list[Any] = []
    monkeypatch.setattr(engine, "run", lambda *_, observe: received.append(observe))
    train(Job("id", micro_spec("smope"), ("prefix_keys",)), *given(tmp_path))
    assert received == [("prefix_keys",)]
