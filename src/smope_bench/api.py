"""The public face: what methods, benchmarks and other additions of one's own import. Beside ``smope_bench`` itself
and ``smope_bench.audit``, nothing else is promised.

A name's module is imported when the name is first used: a benchmark needs no torch, and Avalanche takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smope_bench.benchmarks.avalanche.bridge import AvalancheBenchmark, from_avalanche, to_avalanche
    from smope_bench.benchmarks.base import (
        Benchmark,
        BenchmarkCard,
        BenchmarkConfig,
        ImageSet,
        ProgressCallback,
        Split,
        silent,
    )
    from smope_bench.benchmarks.datasets.digits import Digits, DigitsConfig
    from smope_bench.benchmarks.errors import BenchmarkError
    from smope_bench.benchmarks.stream import Stream, Task, View, build_stream
    from smope_bench.harness.cli.command import command
    from smope_bench.harness.conformance.check import check_target, failed
    from smope_bench.harness.execution.executor_registry import executor
    from smope_bench.harness.execution.job import Job, JobResult, OnEvent, run_job
    from smope_bench.harness.metrics import Metric, metric
    from smope_bench.harness.run_options import RunOptions
    from smope_bench.harness.tracking.tracker import Point, TrackedRun, tracker
    from smope_bench.methods.common.alignment.class_stats import ClassStatistics, GaussianSampler
    from smope_bench.methods.common.alignment.tap import HIDE_TAP, TapConfig, align, align_after_task
    from smope_bench.methods.common.api import (
        Batch,
        Geometry,
        Method,
        MethodCard,
        MethodConfig,
        ParameterGroup,
        Phase,
        PublishedCost,
        Setup,
        TaskInfo,
        TrainingData,
    )
    from smope_bench.methods.common.backbone.backbones import VIT_B16, Backbone, RandomBackbone, StoredBackbone
    from smope_bench.methods.common.backbone.pretrained import CheckpointBackbone
    from smope_bench.methods.common.classifier import current_task_loss, make_head, seen_logits
    from smope_bench.methods.common.errors import MethodError
    from smope_bench.methods.common.prefix import PlainPrefix
    from smope_bench.methods.common.schedules import Schedule, projected_step
    from smope_bench.methods.common.vit.attention_rules import Recorder, TokenRule, Trace
    from smope_bench.methods.common.vit.block_adaptation import (
        Adapter,
        BlockAdaptation,
        ExtraTokens,
        LowRank,
        ScaleShift,
        dropout_mask,
    )
    from smope_bench.methods.common.vit.merging import Derived
    from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT
    from smope_bench.reports.figures.kinds import FigureData, Picture, figure

__all__ = [
    "HIDE_TAP",
    "VIT_B16",
    "Adapter",
    "AttentionRule",
    "AvalancheBenchmark",
    "Backbone",
    "Batch",
    "Benchmark",
    "BenchmarkCard",
    "BenchmarkConfig",
    "BenchmarkError",
    "BlockAdaptation",
    "CheckpointBackbone",
    "ClassStatistics",
    "Derived",
    "Digits",
    "DigitsConfig",
    "ExtraTokens",
    "FigureData",
    "GaussianSampler",
    "Geometry",
    "ImageSet",
    "Job",
    "JobResult",
    "LowRank",
    "Method",
    "MethodCard",
    "MethodConfig",
    "MethodError",
    "Metric",
    "OnEvent",
    "ParameterGroup",
    "Phase",
    "Picture",
    "PlainPrefix",
    "Point",
    "ProgressCallback",
    "PromptedViT",
    "PublishedCost",
    "RandomBackbone",
    "Recorder",
    "RunOptions",
    "ScaleShift",
    "Schedule",
    "Setup",
    "Split",
    "StoredBackbone",
    "Stream",
    "TapConfig",
    "Task",
    "TaskInfo",
    "TokenRule",
    "Trace",
    "TrackedRun",
    "TrainingData",
    "View",
    "align",
    "align_after_task",
    "build_stream",
    "check_target",
    "command",
    "current_task_loss",
    "dropout_mask",
    "executor",
    "failed",
    "figure",
    "from_avalanche",
    "make_head",
    "metric",
    "projected_step",
    "run_job",
    "seen_logits",
    "silent",
    "to_avalanche",
    "tracker",
]

_PLACES = {
    "benchmarks.avalanche.bridge": "AvalancheBenchmark from_avalanche to_avalanche",
    "benchmarks.base": "Benchmark BenchmarkCard BenchmarkConfig ImageSet ProgressCallback Split silent",
    "benchmarks.datasets.digits": "Digits DigitsConfig",
    "benchmarks.errors": "BenchmarkError",
    "benchmarks.stream": "Stream Task View build_stream",
    "harness.cli.command": "command",
    "harness.conformance.check": "check_target failed",
    "harness.execution.executor_registry": "executor",
    "harness.execution.job": "Job JobResult OnEvent run_job",
    "harness.metrics": "Metric metric",
    "harness.run_options": "RunOptions",
    "harness.tracking.tracker": "Point TrackedRun tracker",
    "methods.common.alignment.class_stats": "ClassStatistics GaussianSampler",
    "methods.common.alignment.tap": "HIDE_TAP TapConfig align align_after_task",
    "methods.common.api": (
        "Batch Geometry Method MethodCard MethodConfig ParameterGroup Phase PublishedCost Setup TaskInfo TrainingData"
    ),
    "methods.common.vit.attention_rules": "Recorder TokenRule Trace",
    "methods.common.backbone.backbones": "VIT_B16 Backbone RandomBackbone StoredBackbone",
    "methods.common.vit.block_adaptation": "Adapter BlockAdaptation ExtraTokens LowRank ScaleShift dropout_mask",
    "methods.common.vit.merging": "Derived",
    "methods.common.backbone.pretrained": "CheckpointBackbone",
    "methods.common.vit.vit": "AttentionRule PromptedViT",
    "methods.common.classifier": "current_task_loss make_head seen_logits",
    "methods.common.errors": "MethodError",
    "methods.common.prefix": "PlainPrefix",
    "methods.common.schedules": "Schedule projected_step",
    "reports.figures.kinds": "FigureData Picture figure",
}
_MODULE_OF = {name: f"smope_bench.{module}" for module, names in _PLACES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
