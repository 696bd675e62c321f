"""Backbones by name: where their weights are, the hash they must have, and how to load them.

Importing this module imports no torch. A missing, changed or misshapen weights file is refused.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from smope_bench.methods.common.backbone.architectures import build, load, skeleton
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.methods.common.vit.vit import PromptedViT

WEIGHTS = Path(__file__).parent / "weights"

BUILTIN: dict[str, str] = {
    "tiny": "smope_bench.methods.common.backbone.backbones:TINY",
    "tiny_colour": "smope_bench.methods.common.backbone.backbones:TINY_COLOUR",
    "tiny_random": "smope_bench.methods.common.backbone.backbones:TINY_RANDOM",
    "random": "smope_bench.methods.common.backbone.backbones:RANDOM_VIT_B16",
    "sup21k": "smope_bench.methods.common.pretrained_files.zoo:SUP21K",
    "sup1k": "smope_bench.methods.common.pretrained_files.zoo:SUP1K",
    "sup21k_orig": "smope_bench.methods.common.pretrained_files.zoo:SUP21K_ORIG",
    "ibot1k": "smope_bench.methods.common.pretrained_files.zoo:IBOT1K",
    "dino1k": "smope_bench.methods.common.pretrained_files.zoo:DINO1K",
    "moco1k": "smope_bench.methods.common.pretrained_files.zoo:MOCO1K",
}

VIT_B16: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "num_classes": 0,
}


IMPORTED = "vit-"
"""Names of backbones that were imported from a user's file begin so."""

Resample = Literal["antialias", "plain"]
Feature = Literal["token", "avg", "map"]
Channels = tuple[float, float, float]


def is_channels(values: Any, *, positive: bool = False) -> bool:
    """Whether these are numbers for red, green and blue of pixels in [0, 1]: from 0, or above it, to 1."""
    numbers = isinstance(values, list | tuple) and len(values) == 3 and all(type(one) in (int, float) for one in values)
    return numbers and all((one > 0 if positive else one >= 0) and one <= 1 for one in values)


class BackboneSettings(BaseModel):
    """What may be changed of a backbone; a field that is None leaves it as its weights have it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int | None = Field(
        default=None,
        ge=8,
        le=1024,
        description="side in pixels of its input; position embeddings are resampled to another size's grid",
    )
    resample: Resample | None = Field(
        default=None,
        description="how position embeddings are resampled: antialias as timm does (the default), plain without antialiasing",
    )
    feature: Feature | None = Field(
        default=None,
        description="what a method classifies: token = class token, avg = mean of patches, map = attention pool",
    )

    @property
    def words(self) -> str:
        """``at 384 px (antialias), feature avg``; empty where nothing is changed."""
        size = f"at {self.image_size} px ({self.resample or 'antialias'})" if self.image_size else ""
        feature = f"feature {self.feature}" if self.feature else ""
        return ", ".join(part for part in (size, feature) if part)


ProgressCallback = Callable[[str], None]
Fetch = Callable[..., Path]
"""``fetch(name, urls, digest, folder, given, progress)`` returns a verified file. The harness supplies it."""


def silent(message: str) -> None:
    """Discard a progress message."""
    del message


NO_IS_TINY = (
    "is_tiny is no more: threads and time estimates follow the backbone's size; set is_rehearsal=True if results on it are to be"
    " marked as a rehearsal"
)


class WeightsMissingError(MethodError):
    """The weights of a backbone are not prepared under the data folder."""


class Backbone(ABC):
    """A frozen ViT by name. Plugins register an instance; ``name`` is chosen with ``--backbone NAME``."""

    name: str
    summary: str
    """What it is and what it was trained on, in a line."""
    is_random: bool
    """Whether its weights are random; results on it are marked."""
    architecture: Mapping[str, Any]
    """What ``architectures.build`` takes; ``img_size`` is always there."""
    is_rehearsal: bool = False
    """Whether results on it only rehearse the papers' experiments: they are marked, and compared with no printed number."""
    ships: bool = False
    """Whether its weights come with the installation, so that it needs no download."""
    mean: Channels | None = None
    """Mean of red, green and blue that its input is normalised with; None: as the recipe or the benchmark has it."""
    std: Channels | None = None
    """Standard deviation of red, green and blue, as ``mean``."""
    licence: str = ""
    """Licence of the weights; empty = not known here, as of a user's own file."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises TypeError for the attribute ``is_tiny`` of older versions."""
        super().__init_subclass__(**options)
        if "is_tiny" in {*vars(cls), *vars(cls).get("__annotations__", {})}:
            raise TypeError(f"{cls.__name__}: {NO_IS_TINY}")

    def at(self, root: Path) -> Backbone:
        """The backbone with its weights under a data folder; itself where it keeps none there."""
        del root
        return self

    def prepare(self, fetch: Fetch, given: Sequence[Path] = (), progress: ProgressCallback = silent) -> None:
        """Download, check and convert the weights, once; by default there is nothing to do."""
        del fetch, given, progress

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Hash of the weights, part of a run's identity. Raises WeightsMissingError where they are not prepared."""

    @property
    def image_size(self) -> int:
        """Side in pixels of its input."""
        size = self.architecture.get("img_size")
        if not isinstance(size, int):
            raise MethodError(
                f"backbone {self.name!r}: img_size of its architecture is {size}; give the side in pixels of its square input"
            )
        return size

    @property
    def feature(self) -> str:
        """What a method classifies: ``token``, ``avg`` or ``map``."""
        return str(self.architecture.get("global_pool", "token"))

    @property
    def is_verified(self) -> bool:
        """Whether the weights are known to be what the name promises: random, or of a hash that is publicly stated."""
        return self.is_random

    @property
    def weight_count(self) -> int:
        """About how many weights it has, by width and depth alone."""
        return 12 * int(self.architecture.get("depth", 12)) * int(self.architecture.get("embed_dim", 768)) ** 2

    @property
    def changes(self) -> BackboneSettings:
        """What was changed of the backbone, each field None where nothing was."""
        return BackboneSettings()

    def adapted(self, settings: BackboneSettings) -> Backbone:
        """The backbone with another input size or feature; itself where nothing is changed. Raises MethodError."""
        if settings == BackboneSettings():
            return self
        from smope_bench.methods.common.backbone.adapted import AdaptedBackbone

        return AdaptedBackbone.of(self, settings)

    def verify(self) -> Path | None:
        """Path of the weights once their bytes are checked; None without a file. Raises MethodError."""
        return None

    @abstractmethod
    def load(self) -> PromptedViT:
        """The frozen ViT in float32 on the CPU. Raises MethodError for weights that do not fit."""

    def skeleton(self) -> PromptedViT:
        """The architecture without values, on the meta device."""
        return prompted(skeleton(self.architecture))

    def fill(self, vit: Any, tensors: Mapping[str, Any], *, assign: bool = False) -> PromptedViT:
        """The frozen ``vit`` with these weights. Raises MethodError where they do not fit."""
        try:
            load(vit, tensors, assign=assign)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise MethodError(f"weights of backbone {self.name!r} do not fit its architecture: {reason}") from error
        return prompted(vit)


@dataclass(frozen=True)
class StoredBackbone(Backbone):
    """A ViT whose safetensors weights lie beside a JSON ``description`` (architecture and hash), as the project's own does."""

    name: str
    summary: str
    description: Path
    is_random: bool = False
    is_rehearsal: bool = False
    ships: bool = False
    licence: str = ""

    @property
    def is_verified(self) -> bool:
        """True: its hash is stored with the code, and checked at every use."""
        return True

    @property
    def sha256(self) -> str:
        """The expected hash of the weights file; part of a run's identity."""
        return str(self._described()["sha256"])

    @property
    def architecture(self) -> Mapping[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._described()["architecture"]

    def verify(self) -> Path:
        """Path of the weights after their hash is checked. Raises MethodError."""
        file, expected = self.description.with_suffix(".safetensors"), self.sha256
        try:
            found = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise MethodError(
                f"weights of backbone {self.name!r}: {file.name} cannot be read ({error.strerror})"
            ) from error
        if found != expected:
            raise MethodError(
                f"weights of backbone {self.name!r}: {file.name} has SHA-256 {found[:16]}..., expected {expected[:16]}...;"
                " restore the file from the repository"
            )
        return file

    def load(self) -> PromptedViT:
        """The frozen backbone in float32 on the CPU. Raises MethodError for weights that do not fit the description."""
        from safetensors.torch import load_file

        tensors = {name: tensor.float() for name, tensor in load_file(self.verify()).items()}
        return self.fill(skeleton(self.architecture), tensors, assign=True)

    def _described(self) -> dict[str, Any]:
        try:
            return json.loads(self.description.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise MethodError(f"description of backbone {self.name!r}: {self.description.name}: {error}") from error


@dataclass(frozen=True)
class RandomBackbone(Backbone):
    """A ViT with random weights, for cost and speed work; marked as random in every report."""

    name: str
    summary: str
    architecture: Mapping[str, Any]
    seed: int = 0
    is_random: bool = True
    is_rehearsal: bool = False
    ships: bool = False
    licence: str = "none: drawn from a seed"

    @property
    def sha256(self) -> str:
        """Hash of architecture and seed; part of a run's identity."""
        text = json.dumps([dict(self.architecture), self.seed], sort_keys=True)
        return f"random-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def load(self) -> PromptedViT:
        """Weights drawn from the seed alone."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return prompted(build(self.architecture))


def prompted(vit: Any) -> PromptedViT:
    """The frozen ViT that methods prompt."""
    from smope_bench.methods.common.vit.vit import PromptedViT

    return PromptedViT(vit)


TINY = StoredBackbone(
    name="tiny",
    summary="small ViT pre-trained by this project on rendered characters that no tiny benchmark uses",
    description=WEIGHTS / "tiny_vit.json",
    is_rehearsal=True,
    ships=True,
    licence="MIT, as the project",
)
TINY_COLOUR = StoredBackbone(
    name="tiny_colour",
    summary="small ViT pre-trained by this project on emoji of things that emoji_r does not have, drawn in all families",
    description=WEIGHTS / "tiny_colour.json",
    is_rehearsal=True,
    ships=True,
    licence="MIT, as the project; the drawings it learnt from are under Apache-2.0, MIT, CC-BY-4.0 and CC-BY-SA-4.0",
)
RANDOM_VIT_B16 = RandomBackbone(
    name="random",
    summary="ViT-B/16 at 224 px with RANDOM weights: for cost and speed work only",
    architecture=VIT_B16,
)
TINY_RANDOM = RandomBackbone(
    name="tiny_random",
    summary="the architecture of tiny with RANDOM weights: stands for other weights where suites are rehearsed",
    architecture=json.loads((WEIGHTS / "tiny_vit.json").read_text(encoding="utf-8"))["architecture"],
    is_rehearsal=True,
    ships=True,
)


MICRO = RandomBackbone(
    "conformance-micro",
    "six narrow blocks with random weights",
    {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 0},
)
