"""The parts of a run that its specification names: the prepared benchmark's stream and the backbone, and what they are."""

from __future__ import annotations

from pathlib import Path

import torch

from smope_bench.benchmarks.stream import Stream, build_stream
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.backbone.vit import PromptedViT


def open_stream(registries: Registries, spec: RunSpec, data_root: Path) -> Stream:
    """The prepared benchmark of ``spec`` in its class order."""
    benchmark = registries.benchmarks.load(spec.benchmark.name)
    return build_stream(benchmark(benchmark.Config(**spec.benchmark.config), data_root), spec.order_seed)


def load_backbone(registries: Registries, spec: RunSpec, data_root: Path) -> PromptedViT:
    """The backbone of ``spec``; UserError where the weights are no longer those that the spec was planned with."""
    backbone = registries.backbones.load(spec.backbone.name).at(data_root)
    if backbone.sha256 != spec.backbone.sha256:
        raise UserError(
            f"backbone {spec.backbone.name!r} now has weights {backbone.sha256[:16]}, but the run was planned with"
            f" {spec.backbone.sha256[:16]}; plan it again"
        )
    loaded = backbone.load()
    if spec.precision == "bf16":
        loaded.keep_products_in(torch.bfloat16)
    return loaded


def flags_of(registries: Registries, spec: RunSpec, method: Method) -> dict[str, bool]:
    """What must be said of the run wherever it is shown."""
    backbone = registries.backbones.load(spec.backbone.name)
    leaking = type(method).leaks(method.config)
    return {"tiny": backbone.is_tiny, "random_backbone": backbone.is_random, "leaking": leaking}
