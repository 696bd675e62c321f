"""Small weights files of the common kinds of ViT, each written in its publisher's layout from a model of timm.

Nothing here goes through the project's reader: names and forms are written by hand, so that reading them back is a test.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.layers import LayerNorm, SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

Tensors = dict[str, Tensor]

WIDTH, HEADS, DEPTH = 128, 2, 6
SHAPE: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
CLIP_NORM = {"pre_norm": True, "norm_layer": partial(LayerNorm, eps=1e-5)}
DINOV3: dict[str, Any] = {
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "use_rot_pos_emb": True,
    "use_abs_pos_emb": False,
    "num_reg_tokens": 4,
    "init_values": 1e-5,
    "use_fc_norm": False,
    "norm_layer": partial(LayerNorm, eps=1e-5),
}


@dataclass(frozen=True)
class Written:
    """A file, the model it was written from, arguments for the reader, and words that its ``found`` must have."""

    path: Path
    model: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    says: tuple[str, ...] = ()


def model(kind: Any = VisionTransformer, **changes: Any) -> Any:
    """A model of timm whose every tensor matters: timm's initial weights are too small for attention to show."""
    torch.manual_seed(0)
    built = kind(**{**SHAPE, "num_classes": 0, **changes}).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in built.named_parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.3 if name.endswith("bias") else 0.1))
    return built


def tensors_of(built: Any) -> Tensors:
    """A model's tensors, copied."""
    return {name: value.clone() for name, value in built.state_dict().items()}


def renamed(tensors: Tensors, *rules: tuple[str, str], prefix: str = "") -> Tensors:
    """Tensors under other names, by patterns applied one after the other."""
    found = {}
    for original, value in tensors.items():
        name = original
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[prefix + name] = value
    return found


def split_qkv(tensors: Tensors, names: str) -> Tensors:
    """Joint projections split; ``names`` has ``{}`` for query, key and value and ``*`` for the block's prefix."""
    found: Tensors = {}
    for name, value in tensors.items():
        joint = re.fullmatch(r"(blocks\.\d+\.)attn\.qkv\.(weight|bias)", name)
        if joint is None:
            found[name] = value
            continue
        for word, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
            found[names.replace("*", joint[1]).format(word) + f".{joint[2]}"] = part.clone()
    return found


def saved(folder: Path, held: Any, name: str = "weights.pth", **options: Any) -> Path:
    """A file of torch, or of safetensors by its ending."""
    path = folder / name
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in held.items()}, path)
    else:
        torch.save(held, path, **options)
    return path


def plain(folder: Path) -> Written:
    built = model()
    extra = {"head.weight": torch.rand(5, WIDTH), "head.bias": torch.rand(5)}
    return Written(
        saved(folder, {**tensors_of(built), **extra}),
        built,
        says=("left out: 'head.weight', 'head.bias'", "2 heads of 64"),
    )


def deit(folder: Path) -> Written:
    built = model()
    return Written(
        saved(folder, {"model": tensors_of(built), "args": argparse.Namespace(lr=1)}), built, says=("entry 'model'",)
    )


def deit_distilled(folder: Path) -> Written:
    built = model(VisionTransformerDistilled)
    extra = {name: torch.rand(5, WIDTH) for name in ("head.weight", "head_dist.weight")}
    return Written(saved(folder, {"model": {**tensors_of(built), **extra}}), built, says=("distillation token",))


def deit3(folder: Path) -> Written:
    built = model(no_embed_class=True, init_values=1e-6)
    tensors = renamed(tensors_of(built), (r"\.ls([12])\.gamma", r".gamma_\1"))
    return Written(saved(folder, {"model": tensors}), built)


def dino(folder: Path) -> Written:
    built, student = model(), model(init_values=0.5)
    held = {
        "student": renamed(tensors_of(student), prefix="module.backbone."),
        "teacher": {**renamed(tensors_of(built), prefix="backbone."), "head.mlp.0.weight": torch.rand(4, 4)},
        "epoch": 3,
    }
    return Written(
        saved(folder, held),
        built,
        says=("entry 'teacher' with the prefix 'backbone.'", "not taken: 'student/module.backbone.'"),
    )


def dinov2(folder: Path) -> Written:
    built = model(img_size=56, patch_size=14, init_values=1e-5)
    return Written(
        saved(folder, {**tensors_of(built), "mask_token": torch.rand(1, WIDTH)}), built, says=("patches of 14 px",)
    )


def dinov2_giant(folder: Path) -> Written:
    built = model(init_values=1e-5, mlp_layer=SwiGLUPacked, mlp_ratio=2.66667 * 2, act_layer=nn.SiLU)
    tensors = renamed(tensors_of(built), (r"\.fc1\.", ".w12."), (r"\.fc2\.", ".w3."))
    return Written(saved(folder, {**tensors, "mask_token": torch.rand(1, WIDTH)}), built)


def registers(folder: Path) -> Written:
    built = model(reg_tokens=4, no_embed_class=True, init_values=1e-5)
    return Written(saved(folder, tensors_of(built), "model.safetensors"), built)


def registers_dinov2(folder: Path) -> Written:
    """As its authors publish it: the class token has a place in the position embedding, registers have none."""
    built = model(reg_tokens=4, no_embed_class=True, init_values=1e-5)
    tensors = renamed(tensors_of(built), (r"^reg_token$", "register_tokens"))
    place = torch.rand(1, 1, WIDTH)
    tensors["pos_embed"] = torch.cat([place, tensors["pos_embed"]], dim=1)
    tensors["cls_token"] = tensors["cls_token"] - place
    tensors = renamed(tensors, (r"^blocks\.([0-2])\.", r"blocks.0.\1."), (r"^blocks\.([3-5])\.", r"blocks.1.\1."))
    return Written(saved(folder, {**tensors, "mask_token": torch.rand(1, WIDTH)}), built)


def dinov3(folder: Path) -> Written:
    built = model(Eva, **DINOV3, qkv_bias=False)
    return Written(
        saved(folder, tensors_of(built), "model.safetensors"),
        built,
        {"image_size": 32},
        ("mean of its patches", "DINOv3"),
    )


def dinov3_authors(folder: Path) -> Written:
    built = model(Eva, **DINOV3)
    tensors = renamed(tensors_of(built), (r"^reg_token$", "storage_tokens"), (r"\.gamma_([12])$", r".ls\1.gamma"))
    for block in range(DEPTH):
        query, value = (tensors.pop(f"blocks.{block}.attn.{name}_bias") for name in "qv")
        tensors[f"blocks.{block}.attn.qkv.bias"] = torch.cat([query, torch.rand(WIDTH), value])
        tensors[f"blocks.{block}.attn.qkv.bias_mask"] = torch.full((3 * WIDTH,), torch.nan)
    tensors |= {"rope_embed.periods": torch.rand(16), "mask_token": torch.rand(1, WIDTH)}
    return Written(saved(folder, tensors), built, {"image_size": 32})


def eva02(folder: Path) -> Written:
    built = model(
        Eva,
        qkv_fused=False,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
    )
    rules = (
        (r"\.fc1_g\.", ".w1."),
        (r"\.fc1_x\.", ".w2."),
        (r"\.mlp\.fc2\.", ".mlp.w3."),
        (r"\.mlp\.norm\.", ".mlp.ffn_ln."),
    )
    return Written(saved(folder, renamed(tensors_of(built), *rules)), built, says=("EVA-02",))


def eva(folder: Path) -> Written:
    built = model(Eva)
    return Written(saved(folder, tensors_of(built)), built)


def clip_timm(folder: Path) -> Written:
    built = model(**CLIP_NORM)
    return Written(saved(folder, tensors_of(built)), built, says=("epsilon 1e-05", "mean 0.481"))


def clip_names(tensors: Tensors) -> Tensors:
    found = renamed(
        tensors,
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^cls_token$", "class_embedding"),
        (r"^pos_embed$", "positional_embedding"),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
        (r"^blocks\.", "transformer.resblocks."),
    )
    found["class_embedding"] = found["class_embedding"].flatten()
    found["positional_embedding"] = found["positional_embedding"][0]
    return {f"visual.{name}": value for name, value in {**found, "proj": torch.rand(WIDTH, 4)}.items()}


def clip_openai(folder: Path) -> Written:
    built = model(**CLIP_NORM, act_layer="quick_gelu").half().float()
    tensors = {name: value.half() for name, value in clip_names(tensors_of(built)).items()}
    text = {"token_embedding.weight": torch.rand(4, 4), "transformer.resblocks.0.ln_1.weight": torch.rand(4)}
    counts = {name: torch.tensor(32) for name in ("input_resolution", "context_length", "vocab_size")}
    return Written(saved(folder, {**tensors, **text, **counts}), built, says=("prefix 'visual.'", "quick_gelu"))


def clip_open(folder: Path) -> Written:
    built = model(**CLIP_NORM)
    held = {**clip_names(tensors_of(built)), "logit_scale": torch.tensor(4.6)}
    return Written(saved(folder, {"state_dict": renamed(held, prefix="module.")}), built, says=("activation gelu",))


def clip_open_trunk(folder: Path) -> Written:
    built = model()
    return Written(
        saved(folder, renamed(tensors_of(built), prefix="visual.trunk."), "open_clip_model.safetensors"), built
    )


def hf_clip_names(tensors: Tensors) -> Tensors:
    found = renamed(
        split_qkv(tensors, "*self_attn.{}"),
        (r"self_attn\.(q|k|v)(uery|ey|alue)\.", r"self_attn.\1_proj."),
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
        (r"^cls_token$", "embeddings.class_embedding"),
        (r"^pos_embed$", "embeddings.position_embedding.weight"),
        (r"^norm_pre\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"(\d)\.norm([12])\.", r"\1.layer_norm\2."),
        (r"\.attn\.proj\.", ".self_attn.out_proj."),
        (r"^blocks\.", "encoder.layers."),
    )
    found["embeddings.position_embedding.weight"] = found["embeddings.position_embedding.weight"][0]
    return found


def clip_transformers(folder: Path) -> Written:
    built = model(**CLIP_NORM, act_layer="quick_gelu")
    tensors = hf_clip_names(tensors_of(built))
    tensors["embeddings.class_embedding"] = tensors["embeddings.class_embedding"].flatten()
    tensors["embeddings.position_ids"] = torch.arange(17)[None]
    (folder / "config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config": {"num_attention_heads": HEADS}})
    )
    return Written(saved(folder, renamed(tensors, prefix="vision_model."), "model.safetensors"), built)


def siglip(folder: Path) -> Written:
    built = model(class_token=False, global_pool="map")
    return Written(saved(folder, tensors_of(built), "model.safetensors"), built, says=("attention pool", "mean 0.5"))


def siglip_transformers(folder: Path) -> Written:
    built = model(class_token=False, global_pool="map", act_layer="gelu_tanh")
    tensors = hf_clip_names({name: value for name, value in tensors_of(built).items() if "attn_pool" not in name})
    pool = {name.removeprefix("attn_pool."): value for name, value in tensors_of(built).items() if "attn_pool" in name}
    for kind in ("weight", "bias"):
        pool[f"attention.in_proj_{kind}"] = torch.cat([pool.pop(f"q.{kind}"), pool.pop(f"kv.{kind}")])
    rules = (r"^latent$", "probe"), (r"^proj\.", "attention.out_proj."), (r"^norm\.", "layernorm.")
    held = renamed({**tensors, **renamed(pool, *rules, prefix="head.")}, prefix="vision_model.")
    return Written(saved(folder, held, "model.safetensors"), built, says=("gelu_tanh",))


def mae(folder: Path) -> Written:
    built = model()
    decoder = {
        "mask_token": torch.rand(1, 1, 8),
        "decoder_pos_embed": torch.rand(1, 17, 8),
        "decoder_blocks.0.norm1.weight": torch.rand(8),
    }
    return Written(saved(folder, {"model": {**tensors_of(built), **decoder}}), built, says=("'decoder_pos_embed'",))


def mae_mean(folder: Path) -> Written:
    built = model(global_pool="avg", fc_norm=False)
    return Written(saved(folder, {"model": tensors_of(built)}), built, {"feature": "avg"})


def mae_tuned(folder: Path) -> Written:
    built = model(global_pool="avg")
    return Written(
        saved(folder, {"model": tensors_of(built), "args": argparse.Namespace()}), built, says=("mean of its patches",)
    )


def gap(folder: Path) -> Written:
    built = model(class_token=False, global_pool="avg", qkv_bias=False)
    return Written(saved(folder, {"state_dict": tensors_of(built)}), built)


def qk_norm(folder: Path) -> Written:
    built = model(qk_norm=True, num_heads=4)
    return Written(saved(folder, tensors_of(built)), built)


def google_arrays(built: Any) -> dict[str, np.ndarray]:
    def array(value: Tensor) -> np.ndarray:
        return np.ascontiguousarray(value.detach().numpy())

    tensors = tensors_of(built)
    found = {
        "cls": array(tensors["cls_token"]),
        "embedding/kernel": array(tensors["patch_embed.proj.weight"].permute(2, 3, 1, 0)),
        "embedding/bias": array(tensors["patch_embed.proj.bias"]),
        "Transformer/posembed_input/pos_embedding": array(tensors["pos_embed"]),
        "Transformer/encoder_norm/scale": array(tensors["norm.weight"]),
        "Transformer/encoder_norm/bias": array(tensors["norm.bias"]),
    }
    heads = built.blocks[0].attn.num_heads
    for number in range(len(built.blocks)):
        ours, theirs = f"blocks.{number}.", f"Transformer/encoderblock_{number}/"
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for part, weight, bias in zip(
            ("query", "key", "value"),
            tensors[f"{ours}attn.qkv.weight"].chunk(3),
            tensors[f"{ours}attn.qkv.bias"].chunk(3),
            strict=True,
        ):
            found[f"{attention}{part}/kernel"] = array(weight.T.reshape(WIDTH, heads, -1))
            found[f"{attention}{part}/bias"] = array(bias.reshape(heads, -1))
        found[f"{attention}out/kernel"] = array(tensors[f"{ours}attn.proj.weight"].T.reshape(heads, -1, WIDTH))
        found[f"{attention}out/bias"] = array(tensors[f"{ours}attn.proj.bias"])
        for norm, name in ((1, "LayerNorm_0"), (2, "LayerNorm_2")):
            found[f"{theirs}{name}/scale"] = array(tensors[f"{ours}norm{norm}.weight"])
            found[f"{theirs}{name}/bias"] = array(tensors[f"{ours}norm{norm}.bias"])
        for layer in (0, 1):
            found[f"{theirs}MlpBlock_3/Dense_{layer}/kernel"] = array(tensors[f"{ours}mlp.fc{layer + 1}.weight"].T)
            found[f"{theirs}MlpBlock_3/Dense_{layer}/bias"] = array(tensors[f"{ours}mlp.fc{layer + 1}.bias"])
    return found


def google(folder: Path) -> Written:
    built = model(num_heads=4)
    extra = {"pre_logits/kernel": np.zeros((4, 4), np.float32), "head/kernel": np.zeros((4, 4), np.float32)}
    np.savez(folder / "ViT.npz", **google_arrays(built), **extra)  # type: ignore[arg-type]
    return Written(folder / "ViT.npz", built, says=("Google's names", "mean 0.5"))


def augreg(folder: Path) -> Written:
    built = model()
    np.savez(folder / "S_16-i21k.npz", **google_arrays(built), **{"head/bias": np.zeros(4, np.float32)})  # type: ignore[arg-type]
    return Written(folder / "S_16-i21k.npz", built)


def lightning(folder: Path) -> Written:
    built = model()
    return Written(
        saved(folder, {"state_dict": renamed(tensors_of(built), prefix="module.backbone."), "epoch": 1}), built
    )


def averaged(folder: Path) -> Written:
    built, other = model(), model(init_values=0.5)
    held = {
        "state_dict": tensors_of(other),
        "state_dict_ema": tensors_of(built),
        "arch": "vit",
        "metric": np.float64(0.5),
    }
    return Written(
        saved(folder, held, "last.pth.tar"), built, says=("entry 'state_dict_ema'", "not taken: 'state_dict/'")
    )


def moco(folder: Path) -> Written:
    built, momentum = model(), model(init_values=0.5)
    held = renamed(tensors_of(momentum), prefix="module.momentum_encoder.") | renamed(
        tensors_of(built), prefix="module.base_encoder."
    )
    return Written(saved(folder, {"state_dict": held}), built, says=("'module.base_encoder.'",))


def half(folder: Path) -> Written:
    built = model().bfloat16().float()
    return Written(
        saved(folder, {name: value.bfloat16() for name, value in tensors_of(built).items()}, "w.safetensors"), built
    )


def legacy(folder: Path) -> Written:
    built = model()
    return Written(saved(folder, tensors_of(built), _use_new_zipfile_serialization=False), built)


def shallow(folder: Path) -> Written:
    built = model(depth=3)
    return Written(saved(folder, tensors_of(built)), built)


def transformers_vit(folder: Path) -> Written:
    built = model(num_heads=4, norm_layer=partial(LayerNorm, eps=1e-12))
    tensors = renamed(
        split_qkv(tensors_of(built), "*attention.attention.{}"),
        (r"^(cls_token)$", r"embeddings.\1"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^norm\.", "layernorm."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
        (r"^blocks\.", "encoder.layer."),
    )
    config = {"model_type": "vit", "num_attention_heads": 4, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    held = {
        **renamed(tensors, prefix="vit."),
        "vit.pooler.dense.weight": torch.rand(4, 4),
        "classifier.weight": torch.rand(4, 4),
    }
    return Written(saved(folder, held, "model.safetensors"), built, says=("prefix 'vit.'",))


def transformers_dinov2(folder: Path) -> Written:
    built = model(init_values=1e-5, reg_tokens=4, no_embed_class=True)
    tensors = renamed(
        split_qkv(tensors_of(built), "*attention.attention.{}"),
        (r"^(cls_token)$", r"embeddings.\1"),
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^norm\.", "layernorm."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
        (r"^blocks\.", "encoder.layer."),
    )
    tensors["embeddings.position_embeddings"] = torch.cat(
        [torch.zeros(1, 1, WIDTH), tensors["embeddings.position_embeddings"]], dim=1
    )
    tensors["embeddings.mask_token"] = torch.rand(1, WIDTH)
    (folder / "config.json").write_text(json.dumps({"layer_norm_eps": 1e-6, "num_attention_heads": HEADS}))
    return Written(saved(folder, tensors, "model.safetensors"), built)


def transformers_dinov3(folder: Path) -> Written:
    built = model(Eva, **DINOV3)
    tensors = renamed(
        tensors_of(built),
        (r"^(cls_token)$", r"embeddings.\1"),
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.(q|v)_bias$", r".attention.\1_proj.bias"),
        (r"\.fc1\.", ".up_proj."),
        (r"\.fc2\.", ".down_proj."),
        (r"^blocks\.", "layer."),
    )
    for block in range(DEPTH):
        joint = tensors.pop(f"layer.{block}.attn.qkv.weight")
        for part, value in zip("qkv", joint.chunk(3), strict=True):
            tensors[f"layer.{block}.attention.{part}_proj.weight"] = value.clone()
    return Written(saved(folder, tensors, "model.safetensors"), built, {"image_size": 32}, ("mean of its patches",))


def torchvision(folder: Path) -> Written:
    built = model()
    tensors = renamed(
        tensors_of(built),
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^norm\.", "encoder.ln."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
        (r"\.attn\.proj\.", ".self_attention.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.linear_1."),
        (r"\.mlp\.fc2\.", ".mlp.linear_2."),
        (r"^blocks\.", "encoder.layers.encoder_layer_"),
    )
    return Written(saved(folder, {**tensors, "heads.head.weight": torch.rand(4, WIDTH)}), built)


def timm_hub(folder: Path) -> Written:
    """As ``save_for_hf`` of timm writes it: the arguments that the registry does not have stand in config.json."""
    changes = {"embed_dim": 48, "depth": 6, "num_heads": 3, "global_pool": "avg"}
    built = model(partial(timm.create_model, "vit_tiny_patch16_224", img_size=32), patch_size=16, **changes)
    published = {"tag": "mine", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 32, 32]}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "global_pool": "avg",
        "model_args": changes,
        "pretrained_cfg": published,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return Written(
        saved(folder, tensors_of(built), "model.safetensors"), built, says=("vit_tiny_patch16_224", "config.json")
    )


READ: dict[str, Callable[[Path], Written]] = {
    made.__name__: made
    for made in (
        plain, deit, deit_distilled, deit3, dino, dinov2, dinov2_giant, registers, registers_dinov2, dinov3, dinov3_authors, eva02,
        eva, clip_timm, clip_openai, clip_open, clip_open_trunk, clip_transformers, siglip, siglip_transformers, mae, mae_mean,
        mae_tuned, gap, qk_norm, google, augreg, lightning, averaged, moco, half, legacy, shallow, transformers_vit,
        transformers_dinov2, transformers_dinov3, torchvision, timm_hub,
    )
}  # fmt: skip
"""Kinds that can be prompted, by name."""


def _refused(name: str, words: str, **changes: Any) -> tuple[Callable[[], Tensors], str]:
    def tensors() -> Tensors:
        return tensors_of(timm.create_model(name, num_classes=0, **changes))

    return tensors, words


def _with(name: str, shape: tuple[int, ...]) -> Callable[[], Tensors]:
    return lambda: {**tensors_of(model()), name: torch.rand(shape)}


REFUSED: dict[str, tuple[Callable[[], Tensors], str]] = {
    "hybrid": _refused("vit_tiny_r_s16_p8_224", "has a convolutional network before its blocks"),
    "swin": _refused(
        "swin_tiny_patch4_window7_224", "attends within windows", depths=(1, 1), num_heads=(1, 1), embed_dim=16
    ),
    "beit": _refused("beit_base_patch16_224", "adds relative position biases", embed_dim=48, depth=6, num_heads=3),
    "gated attention": (_with("blocks.0.attn.gate.weight", (WIDTH, WIDTH)), "has gated attention"),
    "parallel blocks": _refused("vit_small_patch16_18x2_224", "side by side", embed_dim=48, depth=2, num_heads=3),
    "talking heads": _refused("cait_xxs24_224", "talking heads", embed_dim=48, depth=2, num_heads=3),
    "resnet": _refused("test_resnet", "is a convolutional network"),
    "convnext": _refused("test_convnext", "is a convolutional network"),
    "rectangle": (lambda: tensors_of(model(img_size=(32, 64))), "no square grid"),
    "rotary, unknown kind": _refused(
        "vit_medium_patch16_rope_reg1_gap_256",
        "nothing beside it says which rotary embedding",
        embed_dim=48,
        depth=2,
        num_heads=3,
    ),
}
"""Kinds that prompts cannot enter, by name: their tensors, and words of the refusal."""
