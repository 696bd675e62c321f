"""The published ViT-B/16 checkpoints that the methods' papers use; docs/backbones.md describes each file."""

from __future__ import annotations

from collections.abc import Mapping

from smope_bench.methods.common.backbone.pretrained import CheckpointBackbone


def _timm(
    name: str,
    summary: str,
    tag: str,
    classes: int,
    megabytes: int,
    known: tuple[str, ...] = (),
    twins: Mapping[str, Mapping[str, tuple[int, ...] | None]] | None = None,
) -> CheckpointBackbone:
    spelled = [f"{model}.{kind}" for model in (tag, tag.replace(".", "_")) for kind in ("safetensors", "bin", "pth")]
    return CheckpointBackbone(
        name=name,
        summary=summary,
        layout="timm",
        files=tuple(spelled),
        megabytes=megabytes,
        licence="Apache-2.0 (timm's model card)",
        hub=f"timm/{tag}",
        marks={"head.weight": (classes, 768)},
        known=known,
        twins=twins or {},
    )


SUP21K = _timm(
    "sup21k",
    "ViT-B/16 trained on ImageNet-21k with labels (AugReg), timm's copy",
    "vit_base_patch16_224.augreg_in21k",
    classes=21843,
    megabytes=410,
    twins={"google": {"head/kernel": (768, 21843), "pre_logits/kernel": None}},
)
SUP1K = _timm(
    "sup1k",
    "ViT-B/16 trained on ImageNet-21k and tuned on ImageNet-1K with labels (AugReg 2), timm's copy",
    "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    classes=1000,
    megabytes=346,
    known=("32aa17d6e17b43500f531d5f6dc9bc93e56ed8841b8a75682e1bb295d722405b",),
)
SUP21K_ORIG = CheckpointBackbone(
    name="sup21k_orig",
    summary="ViT-B/16 trained on ImageNet-21k with labels, the first release of its authors",
    layout="google",
    files=("ViT-B_16.npz", "imagenet21k_ViT-B_16.npz", "ViT-B_16_imagenet21k.npz"),
    megabytes=413,
    licence="Apache-2.0 (its authors' repository)",
    url="https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz",
    marks={"pre_logits/kernel": (768, 768)},
    known=("e5005f0a",),  # of old timm's jx_vit_base_patch16_224_in21k-e5005f0a.pth, whose name states it
    twins={"timm_2020": {"pre_logits.fc.weight": (768, 768)}},
)
IBOT1K = CheckpointBackbone(
    name="ibot1k",
    summary="ViT-B/16 trained on ImageNet-1K without labels by iBOT: the teacher",
    layout="ibot",
    files=(
        "checkpoint_teacher.pth",
        "ibot-vit-base16.pth",
        "ibot_vit_base16.pth",
        "ibot_vitbase16.pth",
        "ibot_vitb16.pth",
    ),
    megabytes=343,
    licence="Apache-2.0 (its authors, github.com/bytedance/ibot issue 20)",
    url="https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/vitb_16/checkpoint_teacher.pth",
)
DINO1K = CheckpointBackbone(
    name="dino1k",
    summary="ViT-B/16 trained on ImageNet-1K without labels by DINO: the backbone of the teacher",
    layout="dino",
    files=("dino_vitbase16_pretrain.pth",),
    megabytes=343,
    licence="Apache-2.0 (its authors, github.com/facebookresearch/dino issue 108)",
    url="https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    digest="sha256:bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e",
)
MOCO1K = CheckpointBackbone(
    name="moco1k",
    summary="ViT-B/16 trained on ImageNet-1K without labels by MoCo v3, 300 epochs: the base encoder",
    layout="moco",
    files=("vit-b-300ep.pth.tar", "mocov3-vit-base-300ep.pth", "mocov3_vitb16.pth.tar"),
    megabytes=900,
    licence="CC-BY-NC-4.0 (its authors' repository)",
    url="https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
)
