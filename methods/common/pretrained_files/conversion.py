"""Published checkpoints of ``data prepare``: prefixes and names of each layout, renamed to timm's and checked; no code is run.

Every error names the file and the tensor; a tensor that does not fit is never skipped, resized or filled in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.pretrained_files import google_vit
from smope_bench.methods.common.pretrained_files.containers import Container, checked_tensor, read_entries, some

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Layout of one publisher's files: where the ViT is, and what else they hold.

    ``places``: pairs of an entry of the file ("" is the file itself) and the prefix of the ViT's tensors in it, tried in
    this order. ``drops``: prefixes of tensors that are known and not needed, after the prefix or in full.
    ``allows``: classes beyond tensors and plain containers that such a file may hold.
    """

    containers: tuple[Container, ...]
    places: tuple[tuple[str, str], ...] = (("", ""),)
    drops: tuple[str, ...] = ()
    allows: tuple[type, ...] = ()


LAYOUTS: dict[str, Layout] = {
    "timm": Layout(("safetensors", "torch"), drops=("head.",)),
    "timm_2020": Layout(("torch", "safetensors"), drops=("head.", "pre_logits.")),
    "google": Layout(("npz",), drops=("head/", "pre_logits/")),
    "dino": Layout(("torch",)),
    "ibot": Layout(
        ("torch",),
        places=(
            ("state_dict", ""),
            ("state_dict", "backbone."),
            ("state_dict", "module.backbone."),
            ("teacher", "backbone."),
            ("teacher", "module.backbone."),
        ),
        drops=("head.", "module.head.", "masked_embed"),
        allows=(argparse.Namespace,),
    ),
    "moco": Layout(
        ("torch",),
        places=(("state_dict", "module.base_encoder."), ("model", "")),
        drops=("head.", "module.momentum_encoder.", "module.predictor."),
    ),
}


@dataclass(frozen=True)
class Converted:
    """Tensors under timm's names in float32, and the shapes of those that were left out, under their own names."""

    tensors: dict[str, Tensor]
    dropped: dict[str, Shape]


def convert(path: Path, layout_name: str, shapes: Mapping[str, Shape], heads: int) -> Converted:
    """Read ``path`` and bring it to ``shapes``, a ViT's tensors under timm's names. Raises MethodError."""
    layout = LAYOUTS[layout_name]
    entries = read_entries(path, layout.containers, layout.allows)
    if layout_name == "google":
        found, rest = google_vit.rename(entries, shapes, heads, str(path))
        origin = google_vit.origin
    else:
        entry, prefix = _place(entries, layout, str(path))
        held = {str(name): value for name, value in (entries[entry] if entry else entries).items()}
        found = {name.removeprefix(prefix): value for name, value in held.items() if name.startswith(prefix)}
        rest = {name: value for name, value in held.items() if not name.startswith(prefix)}
        rest |= {name: found.pop(name) for name in list(found) if name not in shapes}

        def origin(name: str) -> str:
            return prefix + name

    _require_all(found, shapes, origin, str(path))
    dropped = _dropped(rest, layout, str(path))
    return Converted(
        {name: checked_tensor(found[name], shapes[name], origin(name), str(path)) for name in shapes}, dropped
    )


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, independent of the file's format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().contiguous().numpy()
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_prepared(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a safetensors file, then the manifest beside it; a failure leaves neither. Raises MethodError."""
    manifest = file.with_suffix(".json")
    made: list[Path] = []
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        made.append(_temporary(file))
        save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, made[0])
        described = {**facts, "file_sha256": file_sha256(made[0]), "file_bytes": made[0].stat().st_size}
        made.append(_temporary(manifest))
        made[1].write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        made[0].chmod(made[1].stat().st_mode)  # safetensors creates files that only the owner can read
        for path in made:  # after a power loss there is all of a file or none
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        manifest.unlink(missing_ok=True)
        made[0].replace(file)
        made[1].replace(manifest)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.numel() * 4 for tensor in tensors.values()) / 1e6
        raise MethodError(
            f"{file.name} ({size:.0f} MB) cannot be written to {file.parent} ({error}); free space there, or choose"
            " another data folder"
        ) from error
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def _place(entries: Mapping[str, Any], layout: Layout, file: str) -> tuple[str, str]:
    for entry, prefix in layout.places:
        held = entries.get(entry) if entry else entries
        if isinstance(held, Mapping) and f"{prefix}cls_token" in held:
            return entry, prefix
    wanted = " or ".join(f"{entry}/{prefix}cls_token".removeprefix("/") for entry, prefix in layout.places)
    raise MethodError(f"{file} has no tensor {wanted}; at its top it has {some(entries)}")


def _dropped(rest: Mapping[str, Any], layout: Layout, file: str) -> dict[str, Shape]:
    unknown = [name for name in rest if not name.startswith(layout.drops)] if layout.drops else list(rest)
    if unknown:
        raise MethodError(f"{file} has tensors that this architecture does not have: {some(unknown)}")
    return {name: tuple(getattr(value, "shape", ())) for name, value in rest.items()}


def _require_all(found: Mapping[str, Any], shapes: Mapping[str, Shape], origin: Any, file: str) -> None:
    missing = [origin(name) for name in shapes if name not in found]
    if missing:
        raise MethodError(f"{file} lacks {some(missing)}: {len(missing)} of {len(shapes)} tensors")
