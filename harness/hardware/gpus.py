"""GPUs of this machine, listed by ``nvidia-smi`` so that the launcher needs no CUDA context, and the device of a run.

A worker sees one GPU only, by ``CUDA_VISIBLE_DEVICES`` in its environment before torch is imported there. Importing this module
imports no torch.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from smope_bench.harness.errors import UserError
from smope_bench.harness.run_options import Gpu

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
ANSWER_S = 30.0
FIELDS = ("index", "uuid", "name", "memory.total", "memory.free", "driver_version")
NEWER_FIELDS = ("compute_cap", "mig.mode.current")
"""Fields that drivers before 2021 do not have."""
MIB = 1024 * 1024


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA shows to this process, in its order, without initialising CUDA; ``CUDA_VISIBLE_DEVICES`` is obeyed.

    Where ``nvidia-smi`` does not answer, as on ROCm, they are counted by torch, and no more is known of them.
    """
    physical, parts = machine_gpus()
    asked = os.environ.get(VISIBLE)
    if not physical:
        return _counted_by_torch(asked)
    if asked is None:
        return parts or physical
    found = list[Gpu]()
    for token in (part.strip() for part in asked.split(",")):
        gpu = _named(token, physical, parts)
        if gpu is None or any(gpu.token == other.token for other in found):
            return found if gpu is None else []  # CUDA ignores what follows a wrong name, and takes none twice
        found.append(gpu)
    return found


def select_gpus(numbers: Sequence[int]) -> list[Gpu]:
    """The visible GPUs with these numbers, all for none. Raises UserError for one that is not there."""
    found = visible_gpus()
    missing = [number for number in numbers if not 0 <= number < len(found)]
    if missing:
        listed = "; ".join(f"{i}: {gpu.words}" for i, gpu in enumerate(found)) or "none"
        limited = f" (of {VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else ""
        raise UserError(
            f"--gpus {','.join(map(str, numbers))}: there is no GPU {missing[0]} here; GPUs{limited}: {listed}"
        )
    return [found[number] for number in numbers] if numbers else found


@contextlib.contextmanager
def only_gpus(gpus: Sequence[Gpu]) -> Iterator[None]:
    """Processes that are started in this block, and CUDA if it is first used in it, see only these; none changes nothing."""
    before = os.environ.get(VISIBLE)
    if gpus:
        os.environ[VISIBLE] = ",".join(gpu.token for gpu in gpus)
    try:
        yield
    finally:
        if gpus:
            os.environ.pop(VISIBLE)
            if before is not None:
                os.environ[VISIBLE] = before


def machine_gpus() -> tuple[list[Gpu], list[Gpu]]:
    """(all GPUs of the machine, the MIG devices where a GPU is divided), by ``nvidia-smi``; nothing without it."""
    fields = (*FIELDS, *NEWER_FIELDS)
    text = nvidia_smi(f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    if text is None:
        fields = FIELDS
        text = nvidia_smi(f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits") or ""
    rows = [
        dict(zip(fields, (value.strip() for value in line), strict=False)) for line in csv.reader(text.splitlines())
    ]
    rows = [row for row in rows if row.get("index", "").isdigit() and row.get("uuid", "").startswith("GPU-")]
    gpus = [
        Gpu(
            row["uuid"],
            row.get("name", ""),
            int(row["index"]),
            row["uuid"],
            _number(row.get("memory.total", "")),
            _number(row.get("memory.free", "")),
            row.get("driver_version", ""),
            row.get("compute_cap", ""),
        )
        for row in rows
    ]
    is_divided = any(row.get("mig.mode.current") == "Enabled" for row in rows)
    return gpus, _mig_devices(nvidia_smi("-L") or "", gpus) if is_divided else []


def nvidia_smi(*arguments: str) -> str | None:
    """What the driver's tool prints; None where it is missing or fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=ANSWER_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def describe_device(device: torch.device, cpu: str) -> dict[str, Any]:
    """The device of a run for its record: type and name, and of an accelerator what is known of it. ``cpu``: its name."""
    import torch

    facts: dict[str, Any] = {"type": device.type}
    if device.type == "cpu":
        return facts | {"name": cpu}
    module = getattr(torch, device.type, None)
    properties: Any = None
    if device.type in ("cuda", "xpu") and module is not None:
        with contextlib.suppress(RuntimeError, AssertionError, AttributeError):
            properties = module.get_device_properties(device)
    facts["name"] = str(getattr(properties, "name", "") or device.type)
    if (total := getattr(properties, "total_memory", None)) is not None:
        facts["memory_mb"] = round(total / MIB)
    if device.type != "cuda" or properties is None:
        return facts
    if hasattr(properties, "major"):
        facts["capability"] = f"{properties.major}.{properties.minor}"
    uuid = str(getattr(properties, "uuid", "") or "")
    uuid = uuid if not uuid or uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    known = next((gpu for gpus in machine_gpus() for gpu in gpus if uuid and gpu.uuid == uuid), None)
    facts |= {"uuid": uuid} if uuid else {}
    facts["index"] = known.index if known and known.index is not None else (device.index or 0)
    return facts | ({"driver": known.driver} if known and known.driver else {})


def _named(token: str, physical: Sequence[Gpu], parts: Sequence[Gpu]) -> Gpu | None:
    """The GPU that an entry of ``CUDA_VISIBLE_DEVICES`` names: a number, or the beginning of one UUID."""
    if re.fullmatch(r"\d+", token):
        number = int(token)
        return _with_token(physical[number], token) if number < len(physical) else None
    if not token.startswith(("GPU-", "MIG-")):
        return None
    candidates = parts if token.startswith("MIG-") else physical
    found = [gpu for gpu in candidates if gpu.uuid.startswith(token)]
    if len(found) == 1:
        return _with_token(found[0], token)
    return Gpu(token, uuid=token) if token.startswith("MIG-") and not parts else None


def _with_token(gpu: Gpu, token: str) -> Gpu:
    return Gpu(token, gpu.name, gpu.index, gpu.uuid, gpu.memory_mb, gpu.free_mb, gpu.driver, gpu.capability)


def _mig_devices(listing: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The devices in ``nvidia-smi -L``: those of divided GPUs, and GPUs that are not divided."""
    whole = {gpu.uuid: gpu for gpu in gpus}
    found, parent, has_parts = list[Gpu](), None, False
    for line in listing.splitlines():
        match = re.search(r"^(\s*)(?:GPU|MIG)\s+(\S+).*\(UUID:\s*([^)]+)\)", line)
        if match is None:
            continue
        indent, profile, uuid = match.groups()
        if not indent:
            if parent is not None and not has_parts:
                found.append(parent)
            parent, has_parts = whole.get(uuid), False
        elif parent is not None:
            size = re.search(r"\.(\d+)gb", profile)
            memory = float(size[1]) * 1024 if size else None
            name = f"{parent.name} MIG {profile}"
            found.append(Gpu(uuid, name, parent.index, uuid, memory, None, parent.driver, parent.capability))
            has_parts = True
    return [*found, *([parent] if parent is not None and not has_parts else [])]


def _counted_by_torch(asked: str | None) -> list[Gpu]:
    if "torch" not in sys.modules and asked is not None and not asked.strip():
        return []
    import torch

    count = torch.cuda.device_count()  # asks the driver's library, and initialises nothing
    tokens = [part.strip() for part in asked.split(",")] if asked else [str(i) for i in range(count)]
    return [Gpu(token, index=i) for i, token in enumerate(tokens[:count])]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # [N/A]
        return None
