"""``--slurm KEY=VALUE``: options for Slurm, under the names of its own manual."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smope_bench.harness.errors import UserError, did_you_mean

DEFAULT_MINUTES = 240
"""Default time limit of a job; a run that needs longer resumes in another job."""
FEEDING_CPUS = 8
"""CPUs of a job with a GPU, at least: they decode its pictures. A core of 2.6 GHz makes some 700 training images a second of
JPEG files of 400 x 350 pixels (``bench feed``), and less of larger ones."""
SIGNAL_DELAY_S = 120
"""Seconds before the time limit at which a job is signalled to save its run."""

WORDS = frozenset(
    [
        "account",
        "comment",
        "constraint",
        "exclude",
        "gres",
        "mail_type",
        "mail_user",
        "mem",
        "nodelist",
        "partition",
        "qos",
    ]
)
"""Keys whose values are passed on as they are."""
NUMBERS = frozenset({"array_parallelism", "cpus_per_task", "gpus_per_node", "gpus_per_task", "signal_delay_s"})
GPU_REQUESTS = frozenset({"gres", "gpus_per_node", "gpus_per_task"})
"""Keys by which a job requests GPUs: one of them replaces the default, ``gres=gpu:1``, which every version understands."""
KNOWN = WORDS | NUMBERS | {"cluster", "exclusive", "setup", "time"}
LOCAL = frozenset({"cluster", "time"})


@dataclass(frozen=True)
class SlurmPlan:
    """The cluster for submitit (``slurm`` or ``local``), and submitit's parameters."""

    cluster: str = "slurm"
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def pays(self) -> tuple[str | None, str | None]:
        """(account, quality of service) that were asked for, whose limits apply."""
        return self.parameters.get("slurm_account"), self.parameters.get("slurm_qos")


def slurm_plan(options: Sequence[str], threads: int, gpus: bool) -> SlurmPlan:
    """The plan for ``KEY=VALUE`` texts; dashes and underscores in keys are the same. ``threads``: CPUs of a job, which has at
    least FEEDING_CPUS where ``gpus`` are asked for.

    Raises UserError for an unknown key, a value that is not a number where one is needed, or a repeated key.
    """
    values = _parsed(options)
    cluster = values.pop("cluster", ["slurm"])[0]
    if cluster not in ("slurm", "local"):
        raise UserError(f"--slurm cluster={cluster}{did_you_mean(cluster, ('slurm', 'local'))}")
    parameters: dict[str, Any] = {"timeout_min": DEFAULT_MINUTES}
    if cluster == "slurm":
        cpus = max(threads, FEEDING_CPUS) if gpus else threads
        parameters |= {"cpus_per_task": cpus, "name": "smope-bench", "slurm_signal_delay_s": SIGNAL_DELAY_S}
        parameters["slurm_additional_parameters"] = {"requeue": True}
    if gpus and cluster == "slurm" and not GPU_REQUESTS & values.keys():
        parameters["slurm_gres"] = "gpu:1"
    for key, texts in values.items():
        parameters |= _parameter(cluster, key, texts)
    return SlurmPlan(cluster, parameters)


def minutes(text: str) -> int:
    """Minutes, rounded up, of a time limit in one of Slurm's forms: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS."""
    found = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", text.strip())
    if found is None:
        raise UserError(f"--slurm time={text}: not a time; write minutes, HH:MM:SS or D-HH:MM:SS")
    days, first, second, third = (int(part) if part else None for part in found.groups())
    assert first is not None
    if days is not None:
        seconds = ((days * 24 + first) * 60 + (second or 0)) * 60 + (third or 0)
    elif third is not None:
        seconds = (first * 60 + (second or 0)) * 60 + third
    else:
        seconds = first * 60 + (second or 0)
    if seconds == 0:
        raise UserError(f"--slurm time={text}: a job needs some time; write minutes, HH:MM:SS or D-HH:MM:SS")
    return -(-seconds // 60)


def _parsed(options: Sequence[str]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for text in options:
        key, equals, value = text.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not equals or not value.strip() or "\n" in value:
            raise UserError(f"--slurm {text!r}: write KEY=VALUE, for example --slurm partition=gpu")
        if key not in KNOWN:
            raise UserError(f"--slurm {key}: unknown{did_you_mean(key, KNOWN)}")
        if key in values and key != "setup":
            raise UserError(f"--slurm {key} is given twice; only setup may be repeated")
        values.setdefault(key, []).append(value.strip())
    return values


def _parameter(cluster: str, key: str, texts: Sequence[str]) -> dict[str, Any]:
    text = texts[0]
    if cluster == "local" and key not in LOCAL:
        raise UserError(f"--slurm {key}={text} means nothing with cluster=local; leave one of them out")
    if key == "time":
        return {"timeout_min": minutes(text)}
    if key == "setup":
        return {f"{cluster}_setup": list(texts)}
    if key == "exclusive":
        return {f"{cluster}_exclusive": True if text.lower() in ("true", "yes", "1") else text}
    if key in WORDS:
        return {f"{cluster}_{key}": text}
    if not text.isdigit():
        raise UserError(f"--slurm {key}={text}: not a whole number")
    generic = key in ("cpus_per_task", "gpus_per_node")
    return {key if generic else f"{cluster}_{key}": int(text)}
