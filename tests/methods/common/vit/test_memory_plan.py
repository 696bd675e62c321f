"""Short memory changes no number: every trained method's losses, gradients and outputs under every plan of spending memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.timing.measure import saved_bytes
from smope_bench.harness.training.optimization import declare_trainable
from smope_bench.methods import BUILTIN
from smope_bench.methods.common.api import Batch, Method, Setup, TaskInfo
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.prompts.experts import Choice, Handicap, SparseExperts
from smope_bench.methods.common.prompts.routing import PickedPrefix, Picker, Routing
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.attention_rules import AttentionRule, Trace
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT
from tests.tolerance import sum_tolerance  # pyright: ignore[reportMissingImports]

IMAGES = 5
PRODUCTS = IMAGES * 5 * 24
"""Terms of a gradient's sum over images, tokens and channels of the micro backbone."""
HIDDEN, BLOCKS = MemoryPlan(checkpoint_mlps=True), MemoryPlan(checkpoint_blocks=True)
SLICED = [MemoryPlan(micro_batch=count) for count in (1, 2, 3)] + [MemoryPlan(checkpoint_blocks=True, micro_batch=2)]


def trained() -> list[Any]:
    """Every built-in method with training steps, by name and settings, and the settings that change how its rules look."""
    from smope_bench.harness.registry.registry import open_registries

    methods = open_registries().methods
    names = [name for name in BUILTIN if methods.load(name).fit_task is Method.fit_task]
    cases: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in names]
    cases += [
        ("smope", {"noise": "uniform", "alpha_router": 0.1, "alpha_proto": 0.1}),
        ("smope", {"score_agg": "per_token", "prefix_space": "model"}),
        ("hash_prompt", {"router_input": "per_layer"}),
        ("hash_prompt", {"router_input": "per_layer", "router_select": "mean_scores", "history_update": "online"}),
        ("hash_prompt", {"router_input": "frozen_final", "contrastive_reg": 0.1}),
        ("hide_prompt", {"retrieval": "published_leak"}),
        ("ranpac", {"first_task_tuning": True}),
    ]
    return [
        pytest.param(methods.load(name), config, id="-".join([name, *map(str, config.values())]))
        for name, config in cases
    ]


def outcome(
    method_class: type[Method], config: Mapping[str, Any], plan: MemoryPlan, precision: str
) -> dict[str, Tensor]:
    """Loss and gradients of a step in every phase of two tasks, predictions, what is observed, and the buffers left behind."""
    torch.manual_seed(0)
    backbone = MICRO.load()
    backbone.memory = plan
    if precision == "bf16":
        backbone.keep_products_in(torch.bfloat16)
    images = torch.rand(IMAGES, 3, 16, 16)
    method = method_class(method_class.Config(**config), backbone, Setup(6, 2, Schedule(epochs=4)))
    found: dict[str, Tensor] = {}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        for task in (TaskInfo(0, range(3), (1, 2, 2)), TaskInfo(1, range(3, 6), (1, 2, 2))):
            found |= {f"task {task.index} {key}": value for key, value in steps(method, task, images).items()}
        with torch.no_grad():
            batch = Batch(images, None, backbone.features(images))
            found |= {"query": batch.features, "prediction": method.predict(batch)}
            found |= method.observed_batch(batch)
    return found | {f"left {name}": tensor for name, tensor in method.named_buffers()}


def steps(method: Method, task: TaskInfo, images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    method.enter_task(task)
    method.begin_task(task)
    for phase in method.phases():
        method.begin_phase(phase)
        declare_trainable(method, method.parameter_groups())
        labels = task.old_classes + torch.arange(IMAGES) % 3
        batch = Batch(images, labels, lambda: method.backbone.features(images))
        if type(method).epoch_batches is not Method.epoch_batches:
            batch = next(iter(method.epoch_batches(OneBatch(batch))))
        loss = method.training_step(batch)
        loss.backward()
        found[f"{phase.name} loss"] = loss.detach()
        found |= {f"{phase.name} gradient of {n}": p.grad for n, p in method.named_parameters() if p.grad is not None}
    return found


class OneBatch:
    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return IMAGES

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Any:
        yield self.batch


@pytest.mark.parametrize(("method", "config"), trained())
def test_recomputation_gives_the_same_bits(method: type[Method], config: Mapping[str, Any]) -> None:
    for precision in ("fp32", "bf16"):
        plain, *recomputed = (outcome(method, config, plan, precision) for plan in (MemoryPlan(), HIDDEN, BLOCKS))
        for again in recomputed:
            assert plain.keys() == again.keys()
            assert [key for key in plain if not torch.equal(plain[key].nan_to_num(), again[key].nan_to_num())] == []


@pytest.mark.parametrize(("method", "config"), trained())
def test_images_a_few_at_a_time_give_the_same_numbers(method: type[Method], config: Mapping[str, Any]) -> None:
    plain = outcome(method, config, MemoryPlan(), "fp32")
    gradients = [value.abs().max() for key, value in plain.items() if "gradient" in key]
    assert not any("loss" in key for key in plain) or max(gradients) > 1e-4
    for plan in SLICED:
        parts = outcome(method, config, plan, "fp32")
        assert plain.keys() == parts.keys()
        for key, value in plain.items():
            scale = (
                max(1e-3, float(value.double().abs().max())) if value.numel() else 0.0
            )  # sums of a tensor's size cancel
            message = f"{key} with {plan.words}"
            atol = sum_tolerance(scale, PRODUCTS)
            torch.testing.assert_close(parts[key], value, atol=atol, rtol=0, equal_nan=True, msg=message)


@pytest.mark.parametrize("plan", [BLOCKS, *SLICED], ids=lambda plan: plan.words)
def test_frozen_passes_and_tokens(plan: MemoryPlan, micro_vit: PromptedViT) -> None:
    images, backbone = torch.rand(IMAGES, 3, 16, 16), MICRO.load()
    backbone.memory = plan
    torch.testing.assert_close(backbone.features(images), micro_vit.features(images), atol=1e-5, rtol=0)
    for depth, norm in ((0, True), (3, False), (6, True)):
        wanted = micro_vit.tokens(images, depth, norm=norm)
        torch.testing.assert_close(backbone.tokens(images, depth, norm=norm), wanted, atol=1e-5, rtol=0)


# -- memory really falls ------------------------------------------------------------------------------------------------


def wide() -> PromptedViT:
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 2, "num_classes": 0}
    return PromptedViT(VisionTransformer(**shape))  # type: ignore[arg-type]


def prefixes(blocks: int = 6) -> dict[int, AttentionRule]:
    shape = (2, 4, 32)
    return {n: PlainPrefix(torch.rand(shape, requires_grad=True), torch.rand(shape)) for n in range(blocks)}


def allocated(run: Callable[[], object]) -> int:
    """Bytes at the peak above those before, of torch's allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events: list[Any] = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    used = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()
        peak = max(peak, used)
    return peak


def test_each_tighter_plan_takes_less() -> None:
    backbone, images, rules = wide(), torch.rand(16, 3, 32, 32), prefixes()
    peaks, saved, plan = [], [], MemoryPlan()
    for plan in (MemoryPlan(), HIDDEN, BLOCKS, MemoryPlan(micro_batch=2), MemoryPlan(micro_batch=1)):
        backbone.memory = plan
        saved.append(saved_bytes(lambda: backbone(images, rules)))
        peaks.append(allocated(lambda: backbone(images, rules).square().sum().backward()))
    assert all(tighter < 0.8 * looser for looser, tighter in pairwise(peaks)), peaks
    assert all(tighter < 0.11 * saved[0] for tighter in saved[2:]), saved
    assert saved[1] < 0.65 * saved[0], saved


@torch.no_grad()
def test_without_a_graph_a_few_images_take_less() -> None:
    backbone, images = wide(), torch.rand(16, 3, 32, 32)
    whole = allocated(lambda: backbone.features(images))
    backbone.memory = MemoryPlan(micro_batch=2)
    assert allocated(lambda: backbone.features(images)) < whole / 4


# -- what rules note ----------------------------------------------------------------------------------------------------


def experts(trace: Trace[Choice], blocks: int = 3) -> dict[int, AttentionRule]:
    torch.manual_seed(1)
    keys, values = torch.rand(blocks, 2, 7, 12, requires_grad=True), torch.rand(blocks, 2, 7, 12, requires_grad=True)
    return {n: SparseExperts(keys[n], values[n], 2, Handicap(), record=trace.recorder(n)) for n in range(blocks)}


def picked(trace: Trace[Routing]) -> dict[int, AttentionRule]:
    torch.manual_seed(1)
    pick = Picker(torch.tensor([0, 1, 1, 0, 1]), torch.rand(2, 1, 4), 2, "both", trace)
    pool = torch.rand(4, 2, 2, 3, 12, requires_grad=True)

    def prefix(pick: Picker, inputs: Tensor) -> Tensor:
        return torch.einsum("bm,mkhpe->kbhpe", pick(0, inputs[:, :8].unflatten(1, (2, 4))), pool)

    return {0: PickedPrefix(prefix, pick)}


@pytest.mark.parametrize("plan", [BLOCKS, *SLICED], ids=lambda plan: plan.words)
def test_recomputation_leaves_the_trace_alone(plan: MemoryPlan) -> None:
    backbone, trace = MICRO.load(), Trace[Choice]()
    backbone.memory = plan
    features = backbone(torch.rand(IMAGES, 3, 16, 16), experts(trace))
    noted = [choice.scores for choice in trace]
    before = [scores.detach().clone() for scores in noted]
    (features.sum() + sum(choice.scores.sum() for choice in trace)).backward()
    assert len(trace) == 3 and all(choice.selected.shape == (IMAGES, 2, 7) for choice in trace)
    assert all(torch.equal(then, now.scores) for then, now in zip(before, trace, strict=True))
    if plan is BLOCKS:  # the tensors of the pass itself, not those of its recomputation
        assert all(then is now.scores for then, now in zip(noted, trace, strict=True))


@pytest.mark.parametrize("plan", [BLOCKS, *SLICED], ids=lambda plan: plan.words)
def test_images_keep_their_own_routers(plan: MemoryPlan) -> None:
    images, found = torch.rand(IMAGES, 3, 16, 16), []
    for each in (MemoryPlan(), plan):
        backbone, trace = MICRO.load(), Trace[Routing]()
        backbone.memory = each
        features = backbone(images, picked(trace))
        (routing,) = trace
        found.append((features, routing.scores, routing.weights, routing.chosen.float()))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [experts, picked])
@pytest.mark.parametrize("plan", [MemoryPlan(), BLOCKS, SLICED[1]], ids=lambda plan: plan.words)
def test_a_pass_that_is_given_up_is_freed(plan: MemoryPlan, make: Callable[[Any], dict[int, AttentionRule]]) -> None:
    backbone, trace = MICRO.load(), Trace[Any]()
    backbone.memory = plan
    before = living()
    rules = make(trace)
    features = backbone(torch.rand(IMAGES, 3, 16, 16), rules)
    assert len(living()) > len(before)
    del features, rules, trace
    gc.collect()
    assert [one for one in living() if not any(one is other for other in before)] == []


def living() -> list[object]:
    """Rules of any pass that has not been freed."""
    return [one for one in gc.get_objects() if type(one) in (SparseExperts, PickedPrefix)]


class OfImages:
    """A rule with a tensor of single images that does not say how it is divided."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return v + self.tensor


@pytest.mark.parametrize("plan", SLICED, ids=lambda plan: plan.words)
def test_a_rule_that_cannot_be_divided_is_refused(plan: MemoryPlan) -> None:
    backbone, images = MICRO.load(), torch.rand(IMAGES, 3, 16, 16)
    backbone.memory = plan
    with pytest.raises(MethodError, match=r"rule OfImages cannot be split by images \(.+\), .* part\(rows\)"):
        backbone(images, {1: OfImages(torch.rand(IMAGES, 1, 1, 1))})
    backbone(images, {1: OfImages(torch.rand(1, 2, 1, 12))})


def test_short_memory_in_a_rule_is_no_fault_of_the_rule() -> None:
    backbone = MICRO.load()
    backbone.memory = SLICED[0]

    def hungry(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        backbone(torch.rand(2, 3, 16, 16), {0: hungry})


@pytest.mark.parametrize("plan", [BLOCKS, SLICED[1]], ids=lambda plan: plan.words)
def test_a_rule_draws_the_same_numbers_again(plan: MemoryPlan) -> None:
    backbone, scale = MICRO.load(), torch.ones(1, requires_grad=True)
    backbone.memory = plan
    drawn: list[Tensor] = []

    def noisy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        drawn.append(torch.rand(1))
        return v * scale * drawn[-1]

    backbone(torch.rand(4, 3, 16, 16), {0: noisy}).sum().backward()
    first, again = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    assert sorted(map(float, first)) == sorted(map(float, again)) and len(set(map(float, first))) == len(first)


# -- the plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (128, [*(f"{n} images at a time" for n in (16, 8, 4, 2)), "1 image at a time"]),
        (20, ["2 images at a time", "1 image at a time"]),
        (3, ["1 image at a time"]),
        (1, []),
    ],
)
def test_plans_grow_tighter_to_the_last(batch: int, words: list[str]) -> None:
    found, plan = [], MemoryPlan()
    assert plan.words == "all at once"
    while (plan := plan.tighter(batch)) is not None:
        found.append(plan.words)
    assert found == ["hidden layers recomputed", "blocks recomputed", *words]


def test_plans_divide_any_batch_and_refuse_nonsense() -> None:
    assert MemoryPlan(micro_batch=2).slices(5) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert MemoryPlan().slices(5) == [slice(0, 5)] == MemoryPlan(micro_batch=9).slices(5)
    assert MemoryPlan(True, 9).tighter(4) == MemoryPlan(True, 2)
    assert MemoryPlan(True, 3).words == "3 images at a time, blocks recomputed"
    with pytest.raises(MethodError, match="micro_batch=0"):
        MemoryPlan(micro_batch=0)
