"""Every part of a block adaptation against a plain, explicit transformer in float64: outputs, gradients, memory plans, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.timing.measure import saved_bytes
from smope_bench.methods.common.backbone.architectures import build
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit.attention_rules import Recorder, Trace
from smope_bench.methods.common.vit.block_adaptation import (
    Adapter,
    BlockAdaptation,
    ExtraTokens,
    LowRank,
    ScaleShift,
    dropout_mask,
)
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.merging import Derived
from smope_bench.methods.common.vit.vit import PromptedViT

WIDTH, DEPTH, HEADS, IMAGES = 24, 3, 2, 5
SHAPE = {"img_size": 16, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0}
HIDDEN, BLOCKS = MemoryPlan(checkpoint_mlps=True), MemoryPlan(checkpoint_blocks=True)
PLANS = [MemoryPlan(), HIDDEN, BLOCKS, MemoryPlan(micro_batch=2), MemoryPlan(True, 3)]
EACH = range(DEPTH)
Leaves = dict[str, Tensor]


def drawn(*shape: int) -> Tensor:
    return (torch.randn(*shape, dtype=torch.double) * 0.3).requires_grad_()


def make(**changes: Any) -> PromptedViT:
    torch.manual_seed(0)
    vit = build(SHAPE | changes)
    with torch.no_grad():  # timm's initial weights are so small that attention hardly matters
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return PromptedViT(cast("VisionTransformer", vit)).double()


class ClassTokenPrompts:
    """Extra tokens that depend on the class token of the block's input, and on a tensor of single images."""

    def __init__(self, matrix: Tensor, shift: Tensor, recorder: Recorder[Any] | None = None) -> None:
        self.matrix, self.shift, self.recorder = matrix, shift, recorder

    def __call__(self, tokens: Tensor) -> Tensor:
        made = (tokens[:, 0] @ self.matrix + self.shift).view(len(tokens), 2, WIDTH)
        if self.recorder is not None:
            self.recorder(Seen(made))
        return made

    def part(self, rows: slice) -> ClassTokenPrompts:
        return ClassTokenPrompts(self.matrix, self.shift[rows], self.recorder and self.recorder.part(rows))


@dataclass
class Seen:
    tokens: Tensor


# -- the plain reference: one image-by-image formula after another, no sharing, no shortcut ------------------------------

Parts = dict[str, Callable[[Any], Any]]


def reference(model: PromptedViT, images: Tensor, parts: dict[int, Parts]) -> Tensor:
    """The feature, with every block for every token; ``parts`` has the changes of each block by name."""
    vit: Any = model.vit
    x = vit._pos_embed(vit.patch_embed(images))
    for number, block in enumerate(vit.blocks):
        x = plain_block(block, x, parts.get(number, {}))
    return vit.norm(x)[:, 0]


def plain_block(block: Any, x: Tensor, changed: Parts) -> Tensor:
    def same(value: Any) -> Any:
        return value

    count = x.shape[1]
    x = changed.get("tokens", same)(x)
    h = changed.get("norm1", same)(block.norm1(x))
    weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
    q, k, v = (
        changed.get(f"out {name}", same)(h @ changed.get(name, same)(weight).T + bias)
        for name, weight, bias in zip("qkv", weights, biases, strict=True)
    )
    q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
    k, v = changed.get("prefix", same)((k, v))
    heads = ((q @ k.transpose(2, 3)) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
    joined = heads.transpose(1, 2).flatten(2)
    attended = joined @ changed.get("proj", same)(block.attn.proj.weight).T + block.attn.proj.bias
    x, attended = (changed.get("drop", same)(part) for part in (x, changed.get("out proj", same)(attended)))
    assert changed.get("keeps") or x.shape[1] == count
    x = x + attended
    h = changed.get("norm2", same)(block.norm2(x))
    hidden = changed.get("out fc1", same)(h @ changed.get("fc1", same)(block.mlp.fc1.weight).T + block.mlp.fc1.bias)
    mixed = torch.nn.functional.gelu(hidden) @ changed.get("fc2", same)(block.mlp.fc2.weight).T + block.mlp.fc2.bias
    mixed = changed.get("out fc2", same)(mixed)
    return x + changed.get("after", same)(mixed) + (changed["beside"](x) if "beside" in changed else 0)


# -- the cases: leaves, adaptations, and the same in the reference ------------------------------------------------------

Case = tuple[Leaves, dict[int, Any], dict[int, Parts]]


def low_rank(*targets: str, shared: bool = False) -> Case:
    sizes = {"fc1": (WIDTH, 4 * WIDTH), "fc2": (4 * WIDTH, WIDTH)}
    leaves: Leaves = {}
    for target in targets:
        inputs, outputs = sizes.get(target, (WIDTH, WIDTH))
        leaves |= {f"down {target}": drawn(3, inputs), f"up {target}": drawn(outputs, 3)}
    first = f"down {targets[0]}"

    def down(target: str) -> Tensor:
        return leaves[first if shared else f"down {target}"]

    updates: Any = {target: LowRank(down(target), leaves[f"up {target}"]) for target in targets}
    plain: Parts = {t: lambda weight, t=t: weight + leaves[f"up {t}"] @ down(t) for t in targets}
    return leaves, dict.fromkeys(EACH, BlockAdaptation(low_rank=updates)), dict.fromkeys(EACH, plain)


def appended(shape: tuple[int, ...], place: Any = "end") -> Case:
    leaves = {"rows": drawn(*shape)}
    count = shape[-2]

    def beside(x: Tensor) -> Tensor:
        rows = leaves["rows"].expand(len(x), count, WIDTH)
        return torch.cat([x, rows], 1) if place == "end" else torch.cat([x[:, :1], rows, x[:, 1:]], 1)

    def drop(x: Tensor) -> Tensor:
        return x[:, :-count] if place == "end" else torch.cat([x[:, :1], x[:, 1 + count :]], 1)

    adaptation = BlockAdaptation(tokens=ExtraTokens(leaves["rows"], place))
    plain: Parts = {"tokens": beside, "drop": drop}
    return leaves, dict.fromkeys(EACH, adaptation), dict.fromkeys(EACH, plain)


def kept(place: Any) -> Case:
    """Kept from the first block on, and another one in the second."""
    leaves, one, plain = appended((3, WIDTH), place)
    more, two, plain_two = appended((IMAGES, 2, WIDTH), place)
    adaptations = {
        number: replace(given, tokens=replace(given.tokens, keep=True)) for number, given in enumerate((one[0], two[1]))
    }
    keeping: list[Parts] = [{"tokens": each["tokens"], "keeps": bool} for each in (plain[0], plain_two[1])]
    return leaves | {f"more {key}": value for key, value in more.items()}, adaptations, dict(enumerate(keeping))


def from_class_token() -> Case:
    leaves = {"matrix": drawn(WIDTH, 2 * WIDTH), "shift": drawn(IMAGES, 2 * WIDTH)}
    source = ClassTokenPrompts(leaves["matrix"], leaves["shift"])
    plain: Parts = {"tokens": lambda x: torch.cat([x, source(x)], 1), "drop": lambda x: x[:, :-2]}
    return leaves, dict.fromkeys(EACH, BlockAdaptation(tokens=ExtraTokens(source))), dict.fromkeys(EACH, plain)


def adapter(place: str, *, dropped: bool = False) -> Case:
    leaves = {"down": drawn(4, WIDTH), "down_bias": drawn(4), "up": drawn(WIDTH, 4), "up_bias": drawn(WIDTH)}
    mask = dropout_mask(IMAGES, 5, 4, 0.3, torch.device("cpu")) if dropped else None
    made = Adapter(**cast("Any", leaves), scale=0.1, mask=mask)

    def bottleneck(x: Tensor) -> Tensor:
        narrow = torch.relu(x @ leaves["down"].T + leaves["down_bias"]) * (1 if mask is None else mask)
        return 0.1 * (narrow @ leaves["up"].T + leaves["up_bias"])

    if place == "beside":
        adaptation, plain = BlockAdaptation(beside_mlp=made), {"beside": bottleneck}
    else:
        adaptation, plain = BlockAdaptation(after_mlp=made), {"after": lambda x: x + bottleneck(x)}
    return leaves, dict.fromkeys(EACH, adaptation), dict.fromkeys(EACH, plain)


def scaled() -> Case:
    places = {place: f"out {place}" for place in ("q", "v", "proj", "fc1", "fc2")} | {
        "norm1": "norm1",
        "norm2": "norm2",
    }
    leaves: Leaves = {}
    plain: Parts = {}
    given: Any = {}
    for place, name in places.items():
        width = 4 * WIDTH if place == "fc1" else WIDTH
        scale, shift = leaves[f"scale {place}"], leaves[f"shift {place}"] = drawn(width), drawn(width)
        given[place] = ScaleShift(scale, shift)
        plain[name] = lambda x, scale=scale, shift=shift: x * scale + shift
    return leaves, dict.fromkeys(EACH, BlockAdaptation(scale_shift=given)), dict.fromkeys(EACH, plain)


def everything() -> Case:
    """All parts that compose in one block, a prefix among them."""
    cases = [
        low_rank("k", "v", "fc1", shared=True),
        appended((IMAGES, 2, WIDTH)),
        adapter("beside", dropped=True),
        scaled(),
    ]
    keys, values = drawn(HEADS, 2, WIDTH // HEADS), drawn(HEADS, 2, WIDTH // HEADS)

    def prefixed(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        k, v = (
            torch.cat([own.expand(len(given), *own.shape), given], 2)
            for own, given in zip((keys, values), pair, strict=True)
        )
        return k, v

    leaves: Leaves = {"keys": keys, "values": values}
    fields: dict[str, Any] = {"attention": PlainPrefix(keys, values)}
    plain: Parts = {"prefix": prefixed}
    for number, (more, adaptations, parts) in enumerate(cases):
        leaves |= {f"{number} {key}": value for key, value in more.items()}
        plain |= parts[0]
        fields |= {key: value for key, value in vars(adaptations[0]).items() if value not in (None, {})}
    return leaves, dict.fromkeys(EACH, BlockAdaptation(**fields)), dict.fromkeys(EACH, plain)


CASES: dict[str, Callable[[], Case]] = {
    "low rank k and v": lambda: low_rank("k", "v"),
    "low rank k and v, shared": lambda: low_rank("k", "v", shared=True),
    "low rank q and v": lambda: low_rank("q", "v"),
    "low rank q, k and v, shared": lambda: low_rank("q", "k", "v", shared=True),
    "low rank projection and MLP": lambda: low_rank("proj", "fc1", "fc2"),
    "tokens": lambda: appended((3, WIDTH)),
    "tokens of each image": lambda: appended((IMAGES, 3, WIDTH)),
    "tokens at the start": lambda: appended((3, WIDTH), "start"),
    "kept tokens": lambda: kept("end"),
    "kept tokens at the start": lambda: kept("start"),
    "tokens from the class token": from_class_token,
    "adapter beside": lambda: adapter("beside"),
    "adapter beside, dropout": lambda: adapter("beside", dropped=True),
    "adapter after": lambda: adapter("after"),
    "scale and shift": scaled,
    "everything": everything,
}


def gradients(feature: Tensor, inputs: Leaves) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(feature.shape, dtype=torch.double, generator=generator)
    found = torch.autograd.grad((feature * weight).sum(), list(inputs.values()), allow_unused=True)
    return dict(zip(inputs, found, strict=True))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_part_is_its_formula_under_every_memory_plan(case: Callable[[], Case]) -> None:
    model = make()
    torch.manual_seed(1)
    leaves, adaptations, plain = case()
    images = torch.rand(IMAGES, 3, 16, 16, dtype=torch.double).requires_grad_()
    inputs = leaves | {"images": images}
    expected = reference(model, images, plain)
    wanted = gradients(expected, inputs)
    bare = model(images)
    assert (expected - bare).abs().max() > 1e-3
    for plan in PLANS:
        model.memory = plan
        feature = model(images, adaptations)
        torch.testing.assert_close(feature, expected, rtol=0, atol=1e-12)
        for name, found in gradients(feature, inputs).items():
            torch.testing.assert_close(found, wanted[name], rtol=1e-10, atol=1e-12, msg=f"{name}, {plan.words}")
        if plan.micro_batch:
            for row in (slice(0, 1), slice(1, 5)):
                part = {number: one.part(row) for number, one in adaptations.items()}
                torch.testing.assert_close(model(images[row], part), feature[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [CASES["low rank k and v"], CASES["tokens"], CASES["adapter beside"]])
def test_the_last_block_computes_what_the_class_token_needs_alone(case: Callable[[], Case]) -> None:
    """As many products as a bare pass, whose last block has one query, and those of the part itself.

    An attention rule has all queries; after it, the block is computed for the class token alone.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model, images = make(), torch.rand(1, 3, 16, 16, dtype=torch.double)
    leaves, adaptations, _ = case()
    del leaves
    counted = []
    for given in (
        {},
        {DEPTH - 1: adaptations[DEPTH - 1]},
        {DEPTH - 1: PlainPrefix(*torch.rand(2, HEADS, 1, 12).double())},
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images, given)
        counted.append(counter.get_total_flops())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.vit(images)
    bare, adapted, by_rule = counted
    assert bare < adapted
    assert bare < by_rule < counter.get_total_flops()


@pytest.mark.parametrize(
    "changes", [{}, {"class": "Eva", "qkv_fused": False, "use_rot_pos_emb": True, "global_pool": "token"}]
)
@pytest.mark.parametrize("targets", [("k", "v"), ("q", "v"), ("q", "proj")])
def test_merged_weights_are_the_sum_and_the_backbone_is_not_touched(changes: Any, targets: Any) -> None:
    model = make(**changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    _, adaptations, _ = low_rank(*targets)
    images = torch.rand(IMAGES, 3, 16, 16, dtype=torch.double)
    updates = {number: one.low_rank for number, one in adaptations.items()}
    merged = {number: BlockAdaptation(weights=each) for number, each in model.merged(updates).items()}
    torch.testing.assert_close(model(images, merged), model(images, adaptations), rtol=0, atol=1e-12)
    twice = {n: replace(one, low_rank=adaptations[n].low_rank) for n, one in merged.items()}
    joined = {n: {t: LowRank.joined(u, u) for t, u in each.items()} for n, each in updates.items()}
    both = {number: BlockAdaptation(weights=each) for number, each in model.merged(joined).items()}
    torch.testing.assert_close(model(images, twice), model(images, both), rtol=0, atol=1e-12)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_are_merged_from_the_originals_where_those_in_use_are_rounded() -> None:
    model = make().float()
    updates: Any = {0: {"v": LowRank(torch.full((1, WIDTH), 1e-2), torch.full((WIDTH, 1), 1e-2))}}
    exact = model.merged(updates)[0]["qkv"]
    model.keep_products_in(torch.bfloat16)
    assert torch.equal(model.merged(updates)[0]["qkv"], exact.bfloat16())
    rounded = model.attentions[0].qkv.weight[2 * WIDTH :].float() + 1e-4
    assert not torch.equal(model.merged(updates)[0]["qkv"][2 * WIDTH :], rounded.bfloat16())


def test_a_derived_value_is_made_again_when_a_tensor_has_changed() -> None:
    made: list[int] = []
    kept, tensor = Derived[int](), torch.zeros(3)

    def count() -> int:
        made.append(1)
        return len(made)

    assert [kept(count, tensor), kept(count, tensor)] == [1, 1]
    tensor.add_(1)
    assert [kept(count, tensor), kept(count, tensor[1:]), kept(count, tensor[1:])] == [2, 3, 3]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.words)
def test_each_set_of_adaptations_is_a_pass_of_its_own(plan: MemoryPlan) -> None:
    model, images = make(), torch.rand(IMAGES, 3, 16, 16, dtype=torch.double)
    model.memory = plan
    sets: list[Any] = [{}, {1: adapter("beside")[1][1]}, {2: appended((IMAGES, 2, WIDTH))[1][2]}]
    expected = torch.stack([model(images, each) for each in sets])
    torch.testing.assert_close(model.forward_each(images, sets), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.words)
def test_readers_and_sources_see_every_image_once_where_no_gradient_is_asked(plan: MemoryPlan) -> None:
    model, images = make(), torch.rand(IMAGES, 3, 16, 16, dtype=torch.double)
    model.memory = plan
    moment = torch.zeros(WIDTH, WIDTH, dtype=torch.double)
    trace = Trace[Seen]()

    def read(tokens: Tensor) -> None:
        moment.add_(tokens.flatten(0, 1).T @ tokens.flatten(0, 1))

    source = ClassTokenPrompts(drawn(WIDTH, 2 * WIDTH), drawn(IMAGES, 2 * WIDTH), trace.recorder(0))
    with torch.no_grad():
        model.run_prompted(images, {0: BlockAdaptation(tokens=ExtraTokens(source)), 2: BlockAdaptation(reads=read)})
        rows = model._up_to(2, images, {0: BlockAdaptation(tokens=ExtraTokens(source))}).tokens
        rows = model.blocks[2].norm1(rows).flatten(0, 1)
    torch.testing.assert_close(moment, rows.T @ rows)
    (seen,) = trace
    assert seen.tokens.shape == (IMAGES, 2, WIDTH)


def test_recomputed_blocks_keep_less(images: int = 16) -> None:
    model = make()
    given = torch.rand(images, 3, 16, 16, dtype=torch.double)
    _, adaptations, _ = adapter("beside")
    kept: dict[str, int] = {}
    for plan in PLANS[:4]:
        model.memory = plan
        kept[plan.words] = saved_bytes(lambda: model(given, adaptations).sum())
    assert max(kept["blocks recomputed"], kept["2 images at a time"]) < kept["all at once"] / 2
    assert kept["hidden layers recomputed"] < 0.65 * kept["all at once"]


TOO_WIDE = "rank 25 of a low-rank update exceeds the width 24 of its layer; lower the rank"
MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "no such block": (
        lambda: {3: BlockAdaptation()},
        "adaptations are given for blocks [3], but the backbone has 3, numbered from 0",
    ),
    "rank": (lambda: BlockAdaptation(low_rank={"k": LowRank(torch.ones(25, 24), torch.ones(24, 25))}), TOO_WIDE),
    "two adapters": (
        lambda: BlockAdaptation(
            beside_mlp=Adapter(torch.ones(2, 24), torch.ones(24, 2)),
            after_mlp=Adapter(torch.ones(2, 24), torch.ones(24, 2)),
        ),
        "beside_mlp and after_mlp of a block's adaptation exclude each other; give one of them",
    ),
    "kept in the last block": (
        lambda: {2: BlockAdaptation(tokens=ExtraTokens(torch.ones(2, 24), keep=True))},
        "extra tokens are kept after block 2, the last one, after which nothing reads them; use keep=False there",
    ),
    "no such target": (
        lambda: BlockAdaptation(low_rank=cast("Any", {"key": LowRank(torch.ones(1, 24), torch.ones(24, 1))})),
        "low_rank is given for key; a block has q, k, v, proj, fc1, fc2",
    ),
    "width of an update": (
        lambda: {0: BlockAdaptation(low_rank={"fc1": LowRank(torch.ones(1, 24), torch.ones(24, 1))})},
        "the adaptation of fc1 in block 0 is for (24, 24), but the layer has (96, 24)",
    ),
    "width of tokens": (
        lambda: {0: BlockAdaptation(tokens=ExtraTokens(torch.ones(2, 23)))},
        "extra tokens are (2, 23), but a block with tokens (2, 5, 24) takes (L, 24) or (2, L, 24)",
    ),
    "width of a scale": (
        lambda: {0: BlockAdaptation(scale_shift={"fc1": ScaleShift(torch.ones(24), torch.zeros(96))})},
        "the scale of fc1 in block 0 is (24,), but the layer's outputs have width 96",
    ),
    "width of a shift": (
        lambda: {0: BlockAdaptation(scale_shift={"norm1": ScaleShift(torch.tensor(2.0), torch.zeros(3))})},
        "the shift of norm1 in block 0 is (3,), but the layer's outputs have width 24",
    ),
    "prefixes of all heads in a row": (
        lambda: {0: PlainPrefix(torch.ones(4, 24), torch.ones(4, 24))},
        "a prefix is (4, 24), but a block with 2 heads of width 12 takes (2, length, 12) or (2, 2, length, 12)",
    ),
    "shape of factors": (
        lambda: LowRank(torch.ones(24, 3), torch.ones(24, 3)),
        "a low-rank update needs down (rank, inputs) and up (outputs, rank), not down (24, 3), up (24, 3)",
    ),
}


@pytest.mark.parametrize(("given", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_in_a_sentence(given: Callable[[], Any], sentence: str) -> None:
    model = make().float()
    with pytest.raises(MethodError) as found:
        model(torch.rand(2, 3, 16, 16), given())
    assert str(found.value) == sentence


def test_an_mlp_of_another_form_is_named() -> None:
    model = make(**{"class": "Eva", "swiglu_mlp": True, "global_pool": "token"}).float()
    update = BlockAdaptation(low_rank={"fc1": LowRank(torch.ones(1, 24), torch.ones(64, 1))})
    with pytest.raises(MethodError, match=r"^block 1 has an MLP of type GluMlp, which has no fc1 that can be adapted"):
        model(torch.rand(2, 3, 16, 16), {1: update})


@pytest.mark.parametrize("place", ["start", "end"])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_rotary_embedding_turns_no_extra_token_and_a_mean_leaves_them_out(place: Any, pool: str) -> None:
    """Where extra tokens stand changes nothing, and kept tokens are no part of a mean of patches."""
    model = make(**{"class": "Eva", "use_rot_pos_emb": True, "global_pool": pool})
    images, rows = torch.rand(IMAGES, 3, 16, 16, dtype=torch.double), drawn(3, WIDTH)
    dropped = {number: BlockAdaptation(tokens=ExtraTokens(rows, place)) for number in EACH}
    other = {number: BlockAdaptation(tokens=ExtraTokens(rows)) for number in EACH}
    torch.testing.assert_close(model(images, dropped), model(images, other), rtol=0, atol=1e-12)
    keeping = {0: BlockAdaptation(tokens=ExtraTokens(rows, place, keep=True))}
    other = {0: BlockAdaptation(tokens=ExtraTokens(rows, keep=True))}
    feature = model(images, keeping)
    torch.testing.assert_close(feature, model(images, other), rtol=0, atol=1e-12)
    with torch.no_grad():
        tokens = model._up_to(DEPTH, images, keeping)
        assert tokens.tokens.shape[1] == 8
        plain = model.vit.norm(tokens.layout.own(tokens.tokens))
        expected = plain[:, 0] if pool == "token" else model.vit.fc_norm(plain[:, 1:].mean(1))
    torch.testing.assert_close(feature, expected, rtol=0, atol=1e-10)
