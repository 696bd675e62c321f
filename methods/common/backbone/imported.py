"""Backbones of users' own: read once from any ViT file, kept in the data folder, and found there by name ever after.

A name is ``vit-`` and twelve digits of a hash of tensors, architecture and normalisation: the same weights from another file
have the same name. Importing this module imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from smope_bench.methods.common.backbone.backbones import (
    IMPORTED,
    Channels,
    Fetch,
    ProgressCallback,
    WeightsMissingError,
    silent,
)
from smope_bench.methods.common.backbone.pretrained import WEIGHTS_FOLDER, PreparedBackbone
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.methods.common.pretrained_files.any_vit import ReadViT

DIGITS = 12
NAME = re.compile(rf"{IMPORTED}[0-9a-f]{{{DIGITS}}}")
NOT_VERIFIED = "weights not verified"
"""What is said wherever no publicly stated hash is known for a weights file."""


@dataclass(frozen=True)
class ImportedBackbone(PreparedBackbone):
    """A user's own ViT in the data folder ``root``; its facts are read from the manifest beside the weights."""

    name: str
    root: Path | None = None
    is_random: bool = False
    keys: ClassVar[Mapping[str, type]] = {
        **PreparedBackbone.keys,
        "architecture": dict,
        "feature": str,
        "mean": list,
        "std": list,
        "image_size": int,
        "found": str,
        "source": str,
        "parameters": int,
        "computes": dict,
        "seal": str,
    }

    def at(self, root: Path) -> ImportedBackbone:
        return replace(self, root=Path(root))

    @property
    def summary(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What was found in the file."""
        facts = self._manifest()
        return f"imported from {facts['source']}: {facts['found']}"

    @property
    def architecture(self) -> Mapping[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Arguments of timm's model."""
        return self._manifest()["architecture"]

    @property
    def mean(self) -> Channels:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Mean of the channels."""
        return tuple(self._manifest()["mean"])

    @property
    def std(self) -> Channels:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Standard deviation of the channels."""
        return tuple(self._manifest()["std"])

    @property
    def image_size(self) -> int:
        """Side in pixels of its input."""
        return self._manifest()["image_size"]

    @property
    def feature(self) -> str:
        """What a method classifies."""
        return self._manifest()["feature"]

    @property
    def weight_count(self) -> int:
        """How many weights it has."""
        return self._manifest()["parameters"]

    def prepare(self, fetch: Fetch, given: Sequence[Path] = (), progress: ProgressCallback = silent) -> None:
        """Nothing to do: it is prepared once it has a name. Raises MethodError for a file, which has a name of its own."""
        del fetch, progress
        if given:
            raise MethodError(
                f"backbone {self.name!r} is what its name says: import {given[0]} with --backbone {given[0]}"
            )

    def _manifest(self) -> dict[str, Any]:
        facts = super()._manifest()
        if name_of(facts) != self.name or _seal(facts) != facts["seal"]:
            raise MethodError(
                f"weights of backbone {self.name!r}: {self._file().with_suffix('.json')} has changed since the import;"
                f" delete it and {self._again}"
            )
        return facts

    @property
    def _again(self) -> str:
        return "import it again with --backbone FILE"

    def _missing(self) -> WeightsMissingError:
        where = "the data folder" if self.root is None else str(self.root / WEIGHTS_FOLDER)
        return WeightsMissingError(
            f"backbone {self.name!r} is not in {where}: import it with --backbone FILE, or copy {self.name}.safetensors and"
            f" {self.name}.json there from the data folder that has them"
        )


def imported_backbone(name: str) -> ImportedBackbone | None:
    """The imported backbone of a name, wherever its data folder is; None for a name of another form."""
    return ImportedBackbone(name) if NAME.fullmatch(name) else None


def imported_under(root: Path) -> Iterator[ImportedBackbone]:
    """The backbones that were imported into a data folder, by name; usable or not."""
    names = sorted(file.stem for file in (root / WEIGHTS_FOLDER).glob(f"{IMPORTED}*.json"))
    yield from (ImportedBackbone(name, root) for name in names if NAME.fullmatch(name))


def name_of(facts: Mapping[str, Any]) -> str:
    """The name of a backbone with these facts: the hash of the tensors, and all else that decides its features."""
    decides = ("sha256", "computes", "feature", "mean", "std", "image_size")
    return IMPORTED + _hash([facts[key] for key in decides])[:DIGITS]


def computes(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a ViT's features beside its tensors, as JSON: equal for all ways to write the architecture down.

    A file may name timm's model that it holds where another, with the same tensors, has nothing but their shapes.
    """
    from smope_bench.methods.common.backbone.architectures import skeleton

    vit = skeleton(architecture)
    if type(vit).__name__ == "Eva":  # rotary embeddings have further arguments
        return dict(architecture)
    layers = {
        (type(module).__name__, str(getattr(module, "eps", "")), str(getattr(module, "approximate", "")))
        for module in vit.modules()
        if not any(module.children()) and type(module).__name__ not in ("Identity", "Dropout")
    }
    attention = vit.blocks[0].attn
    return {
        "class": type(vit).__name__,
        "heads": attention.num_heads,
        "scale": attention.scale,
        "patch": list(vit.patch_embed.patch_size),
        "prefix": [vit.num_prefix_tokens, bool(getattr(vit, "no_embed_class", False))],
        "layers": sorted(map(list, layers)),
    }


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _seal(facts: Mapping[str, Any]) -> str:
    return _hash([facts[key] for key in ("architecture", "parameters", "found", "source")])


def import_vit(read: ReadViT, source: str, source_sha256: str, root: Path) -> ImportedBackbone:
    """Keep a ViT that was read in the data folder ``root``, whole or not at all; what is there already stays.

    ``source``: name of the file or model; ``source_sha256``: of the file, empty for a model of timm's. Raises MethodError
    where it cannot be written.
    """
    from smope_bench.methods.common.pretrained_files.conversion import tensors_sha256, write_prepared

    facts: dict[str, Any] = {
        "sha256": tensors_sha256(read.tensors),
        "architecture": json.loads(json.dumps(read.architecture)),
        "computes": json.loads(json.dumps(computes(read.architecture))),
        "feature": read.feature,
        "mean": [float(value) for value in read.mean],
        "std": [float(value) for value in read.std],
        "image_size": read.image_size,
    }
    name = name_of(facts)
    made = ImportedBackbone(name, Path(root))
    with suppress(MethodError):
        made.verify()
        return made
    facts |= {
        "backbone": name,
        "found": read.found,
        "parameters": sum(tensor.numel() for tensor in read.tensors.values()),
        "source": source,
        "source_sha256": source_sha256,
        "dropped": sorted(read.dropped),
    }
    facts["seal"] = _seal(facts)
    write_prepared(made._file(), read.tensors, facts)
    return made
