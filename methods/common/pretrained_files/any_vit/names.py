"""``--backbone FILE``: under which prefix a ViT lies in a checkpoint, and how its publisher named its tensors.

``find`` looks through all entries and prefixes, so that no list of publishers' wrappers is needed. Tensors come out under the
names of timm's VisionTransformer, with separate queries, keys and values as ``attn.q_proj``, ``attn.k_proj``, ``attn.v_proj``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smope_bench.methods.common.backbone.architectures import skeleton
from smope_bench.methods.common.pretrained_files import google_vit

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_GOOGLE_SHAPES = (
    "embedding/kernel",
    "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
    "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel",
)
"""Arrays that show the patch, the heads and the width of the MLP."""

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Scheme:
    """One way of naming: the patch embedding and the first block by which it is known, and its renaming, rule by rule.

    ``epsilon``, ``activation`` and ``statistics`` (mean, standard deviation) are those of the models that are named so.
    """

    name: str
    anchor: str
    block: str
    rules: tuple[tuple[str, str], ...]
    epsilon: float = 1e-6
    activation: str = "gelu"
    statistics: Statistics = IMAGENET


_JOINT = (r"\.in_proj_(weight|bias)$", r".qkv.\1")
_HF_VIT = (
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^(?:encoder\.)?layer\.", "blocks."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attn\.(q|k|v)(?:uery|ey|alue)\.", r".attn.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1_proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)

SCHEMES = (
    Scheme(
        "timm's names",
        "patch_embed.proj.weight",
        "blocks.",
        (
            (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's training writes blocks in chunks
            (r"^storage_tokens$", "reg_token"),
            (r"\.gamma_([12])$", r".ls\1.gamma"),
            (r"\.mlp\.w12\.", ".mlp.fc1."),
            (r"\.mlp\.w1\.", ".mlp.fc1_g."),
            (r"\.mlp\.w2\.", ".mlp.fc1_x."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
            (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
            (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
            (r"\.attn\.(q_bias|v_bias)$", r".attn.\1"),
        ),
    ),
    Scheme(
        "CLIP's names",
        "conv1.weight",
        "transformer.resblocks.",
        (
            (r"^conv1\.", "patch_embed.proj."),
            (r"^class_embedding$", "cls_token"),
            (r"^positional_embedding$", "pos_embed"),
            (r"^transformer\.resblocks\.", "blocks."),
            (r"^ln_pre\.", "norm_pre."),
            (r"^ln_post\.", "norm."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.ls_([12])\.gamma$", r".ls\1.gamma"),
            _JOINT,
            (r"\.attn\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        ),
        epsilon=1e-5,
        statistics=CLIP,
    ),
    Scheme(
        "transformers' CLIP names",
        "embeddings.patch_embedding.weight",
        "encoder.layers.",
        (
            (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
            (r"^embeddings\.class_embedding$", "cls_token"),
            (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
            (r"^encoder\.layers\.", "blocks."),
            (r"^pre_layrnorm\.", "norm_pre."),
            (r"^post_layernorm\.", "norm."),
            (r"\.layer_norm([12])\.", r".norm\1."),
            (r"\.self_attn\.out_proj\.", ".attn.proj."),
            (r"\.self_attn\.", ".attn."),
            (r"^head\.probe$", "attn_pool.latent"),
            (r"^head\.attention\.in_proj_(weight|bias)$", r"attn_pool.qkv.\1"),
            (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
            (r"^head\.layernorm\.", "attn_pool.norm."),
            (r"^head\.mlp\.", "attn_pool.mlp."),
        ),
        epsilon=1e-5,
        activation="quick_gelu",
        statistics=CLIP,
    ),
    Scheme(
        "transformers' ViT names",
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.",
        _HF_VIT,
        epsilon=1e-12,
        statistics=HALF,
    ),
    Scheme("transformers' DINOv3 names", "embeddings.patch_embeddings.weight", "layer.", _HF_VIT),
    Scheme(
        "torchvision's names",
        "conv_proj.weight",
        "encoder.layers.encoder_layer_",
        (
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^class_token$", "cls_token"),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.layers\.encoder_layer_", "blocks."),
            (r"^encoder\.ln\.", "norm."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
        ),
    ),
)

NOT_NEEDED = re.compile(
    r"(head|head_dist|heads|fc|classifier|cls_head|pre_logits|decoder|mask_token|masked_embed|lm_head|projectors?|proj"
    r"|predictor|prototypes?|pooler|local_cls_norm|rope|rope_embed|rope_embeddings|logit_scale|logit_bias|dino_head|ibot_head|transformer"
    r"|token_embedding|ln_final|positional_embedding|text_projection|text|text_model|input_resolution|context_length"
    r"|vocab_size|attn_pool|embeddings\.position_ids|n_averaged|decoder_\w+"
    r")([./]|$)|.*\.(bias_mask|periods|position_ids|relative_position_index)$"
)
"""Tensors beside the blocks that no feature uses: heads, decoders, the text side, tokens of the training task, counters."""

FOREIGN = (
    (r"layers\.\d+\.blocks\.\d+\.attn|\bcpb_mlp\b", "attends within windows (as Swin does)"),
    (r"relative_position_bias_table", "adds relative position biases to its attention (as BEiT does)"),
    (r"patch_embed\.backbone\.|conv_root|gn_root", "has a convolutional network before its blocks (a hybrid)"),
    (r"attn\.gate\.", "has gated attention"),
    (r"blocks\.\d+\.(in_norm|in_proj|attns\.|mlp_out_proj)", "has attention and MLP side by side (parallel blocks)"),
    (r"lambda_q1", "has differential attention"),
    (r"blocks_token_only|attn\.proj_l\.", "has talking heads and blocks for the class token alone (CaiT)"),
    (r"\bexperts?\.", "has mixture-of-experts MLPs"),
    (r"mlp_tokens|token_mixing", "mixes tokens by MLPs, without attention"),
    (
        r"layer[1-4]\.\d+\.(conv|bn)|stages\.\d+.*\b(conv|dwconv)|features\.\d+\.|conv_stem|bn1\.",
        "is a convolutional network",
    ),
    (r"word_embeddings|embed_tokens|wte\.", "is a language model"),
)
"""Patterns of tensor names, and what a model that has them is or does: prompts cannot enter it as they enter a ViT's blocks."""


@dataclass(frozen=True)
class Place:
    """A ViT in a file: its entry (keys from the top), prefix and naming, and its tensors under the common names."""

    entry: tuple[str, ...]
    prefix: str
    scheme: Scheme
    tensors: dict[str, Any]
    original: dict[str, str]
    """Common name -> name in the file, without the prefix."""
    beside: dict[str, Any]
    """What else the entry holds, under its names in the file."""
    heads: int | None = None
    """Number of heads, where the file shows it."""

    @property
    def words(self) -> str:
        """Where it lies, for a sentence."""
        entry = f"under the entry {'/'.join(self.entry)!r}" if self.entry else "at the top of the file"
        return f"{entry} with the prefix {self.prefix!r}" if self.prefix else entry


def find(entries: Mapping[str, Any]) -> list[Place]:
    """All ViTs in a file, the one to take first: averaged weights before a teacher's, those before others, a student's last."""
    places = [place for entry, held in _mappings(entries) for place in _places(entry, held)]
    return sorted(places, key=lambda place: (_rank("/".join((*place.entry, place.prefix))), len(place.prefix)))


def foreign(names: list[str]) -> str | None:
    """What a model with these tensor names does that a plain ViT does not, as a predicate."""
    return next((words for pattern, words in FOREIGN if any(re.search(pattern, name) for name in names)), None)


def google(arrays: Mapping[str, Any], file: str) -> Place | None:
    """The ViT of an .npz with Google's names; None if it has others. Raises MethodError."""
    try:
        kernel, query, mlp = (arrays[name] for name in _GOOGLE_SHAPES)
    except KeyError:
        return None
    depth = len({name.split("/")[1] for name in arrays if name.startswith("Transformer/encoderblock_")})
    positions = arrays.get("Transformer/posembed_input/pos_embedding")
    width, heads = kernel.shape[-1], query.shape[1]
    shape = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": mlp.shape[1] / width,
        "num_classes": 0,
    }
    names = skeleton({"img_size": kernel.shape[0], "patch_size": kernel.shape[0], **shape}).state_dict()
    shapes = {name: tuple(value.shape) for name, value in names.items()}
    if isinstance(positions, Tensor):
        shapes["pos_embed"] = tuple(positions.shape)
    found, rest = google_vit.rename(arrays, shapes, heads, file)
    scheme = Scheme("Google's names", "", "", (), statistics=HALF)
    original = {name: google_vit.origin(name) for name in found} | {name: name for name in rest}
    return Place((), "", scheme, {**found, **rest}, original, {}, heads)


def _mappings(
    held: Mapping[Any, Any], entry: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    yield entry, {str(name): value for name, value in held.items()}
    if len(entry) < 3:
        for name, value in held.items():
            if isinstance(value, Mapping):
                yield from _mappings(value, (*entry, str(name)))


def _places(entry: tuple[str, ...], held: Mapping[str, Any]) -> Iterator[Place]:
    for scheme in SCHEMES:
        for anchor in [name for name in held if name.endswith(scheme.anchor)]:
            prefix = anchor.removesuffix(scheme.anchor)
            if (prefix and not prefix.endswith(".")) or not any(
                name.startswith(prefix + scheme.block) for name in held
            ):
                continue
            inside = {name.removeprefix(prefix): name for name in held if name.startswith(prefix)}
            original = {_renamed(name, scheme): name for name in inside}
            tensors = {common: _shaped(common, held[inside[name]]) for common, name in original.items()}
            beside = {name: value for name, value in held.items() if not name.startswith(prefix)}
            yield _with_registers(Place(entry, prefix, scheme, tensors, original, beside))


def _with_registers(place: Place) -> Place:
    """Registers under timm's name; the class token takes its place in the position embedding, as registers have none."""
    tensors = place.tensors
    if "register_tokens" not in tensors:
        return place
    tensors["reg_token"] = tensors.pop("register_tokens")
    place.original["reg_token"] = place.original.pop("register_tokens")
    positions = tensors.get("pos_embed")
    if isinstance(positions, Tensor) and isinstance(tensors.get("cls_token"), Tensor):
        tensors["cls_token"] = tensors["cls_token"] + positions[:, :1]
        tensors["pos_embed"] = positions[:, 1:]
    return place


def _renamed(name: str, scheme: Scheme) -> str:
    for pattern, replacement in scheme.rules:
        name = re.sub(pattern, replacement, name)
    return name


def _shaped(name: str, value: Any) -> Any:
    """Tokens and position embeddings get the leading axes that timm gives them."""
    if name in ("cls_token", "pos_embed", "reg_token", "register_tokens") and isinstance(value, Tensor):
        return value.reshape(1, -1, value.shape[-1])
    return value


def _rank(where: str) -> int:
    where = where.lower()
    if re.search(r"student|momentum|target|predictor|decoder", where):
        return 3
    return 0 if "ema" in where else 1 if "teacher" in where else 2
