"""Twelve freely licensed sets of emoji drawings, as npm packages of the Iconify project: reading them and drawing their icons."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata, resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smope_bench.benchmarks.download.archives import members
from smope_bench.benchmarks.download.fetch import Remote
from smope_bench.benchmarks.errors import BenchmarkError

RENDERER, RENDERER_VERSION = "resvg-py", "0.5.0"
EXTRA = "smope-bench[emoji]"
"""What to install for the renderer: pyproject.toml pins its version there."""
"""Other versions draw other bytes."""
REGISTRY = "https://registry.npmjs.org/"
TABLE = "emoji_concepts.csv"
"""Concepts and the icon of each in every set; made by ``python -m smope_bench.harness.maintenance.emoji_concepts``."""
TOP = "package"
"""Folder of an npm archive."""
Use = Literal["class", "pretrain"]


@dataclass(frozen=True)
class IconSet:
    """One package. ``family``: sets of one family share drawings, so that a split never parts them."""

    name: str
    version: str
    family: str
    licence: str
    size: int
    """Bytes of the archive."""
    integrity: str
    """sha512 in base64, as npm states it."""

    def remote(self, registry: str = REGISTRY) -> Remote:
        """The archive in an npm registry."""
        file = f"{self.name}-{self.version}.tgz"
        digest = base64.b64decode(self.integrity).hex()
        return Remote(
            file, (f"{registry.rstrip('/')}/@iconify-json/{self.name}/-/{file}",), f"sha512:{digest}", self.size
        )


SETS: tuple[IconSet, ...] = (
    IconSet(
        *("noto", "1.2.9", "noto", "Apache-2.0", 3_102_958),
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    IconSet(
        *("noto-v1", "1.2.5", "noto", "Apache-2.0", 1_587_591),
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    ),
    IconSet(
        *("fxemoji", "1.2.2", "fxemoji", "Apache-2.0", 1_034_876),
        "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    ),
    IconSet(
        *("fluent-emoji", "1.2.7", "fluent", "MIT", 14_323_330),
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    ),
    IconSet(
        *("fluent-emoji-flat", "1.2.6", "fluent", "MIT", 1_172_438),
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    IconSet(
        *("fluent-emoji-high-contrast", "1.2.6", "fluent", "MIT", 1_054_969),
        "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    ),
    IconSet(
        *("twemoji", "1.2.5", "twemoji", "CC-BY-4.0", 1_555_888),
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    IconSet(
        *("emojione", "1.2.3", "emojione", "CC-BY-4.0", 687_690),
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    ),
    IconSet(
        *("emojione-monotone", "1.2.1", "emojione", "CC-BY-4.0", 1_094_642),
        "cZSNcPsuiAD6HCzCh/2dYKGh3pNI0jJlxBxQWfC33cQsPtqYZqulGBvlkThXYNvDl8VxgVHT9u+izyX/yeEIkA==",
    ),
    IconSet(
        *("emojione-v1", "1.2.3", "emojione", "CC-BY-SA-4.0", 3_704_153),
        "UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
    ),
    IconSet(
        *("openmoji", "1.2.29", "openmoji", "CC-BY-SA-4.0", 1_264_633),
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
    ),
    IconSet(
        *("streamline-emojis", "1.2.4", "streamline", "CC-BY-4.0", 381_714),
        "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
    ),
)
FAMILIES = tuple(dict.fromkeys(each.family for each in SETS))


@dataclass(frozen=True)
class Concept:
    """A thing that several sets draw. ``icons``: the name of its icon by set, where the set has it."""

    name: str
    use: Use
    category: str
    """Unicode's group of emoji, such as ``Food & Drink``."""
    icons: Mapping[str, str]


@cache
def concepts(use: Use) -> tuple[Concept, ...]:
    """The benchmark's classes, or the concepts that a backbone may be trained on: none that is or looks like a class."""
    text = resources.files(__package__ or "").joinpath(TABLE).read_text("utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["use"] == use]
    return tuple(
        Concept(row["concept"], use, row["category"], {one.name: row[one.name] for one in SETS if row[one.name]})
        for row in rows
    )


@dataclass(frozen=True)
class Icon:
    """A drawing: the inner part of an SVG file within a box, whose colour ``currentColor`` stands for where it has one ink."""

    body: str
    left: float
    top: float
    width: float
    height: float
    flip: bool = False

    def group(self, size: float, centre: tuple[float, float], angle: float, ink: str) -> str:
        """An SVG group: the longer side ``size`` long, turned by ``angle`` degrees about its ``centre``."""
        scale = size / max(self.width, self.height)
        across = -scale if self.flip else scale
        middle = self.left + self.width / 2, self.top + self.height / 2
        moves = (
            f"translate({centre[0]:.4f} {centre[1]:.4f}) rotate({angle:.4f}) scale({across:.6f} {scale:.6f})"
            f" translate({-middle[0]:.4f} {-middle[1]:.4f})"
        )
        return f'<g transform="{moves}" color="{ink}">{self.body}</g>'


def read_icons(path: Path, names: Mapping[str, str]) -> dict[str, Icon]:
    """Icons of a package by concept. ``names``: of the icons, by concept. Raises BenchmarkError naming what lacks."""
    content = _icons_file(path)
    found: dict[str, Icon] = {}
    for concept, name in names.items():
        try:
            found[concept] = _icon(content, name)
        except (KeyError, TypeError, ValueError) as error:
            raise BenchmarkError(f"{path} has no usable icon {name!r}, which draws {concept!r}; {_AGAIN}") from error
    return found


_AGAIN = "fetch the package again"


def _icons_file(path: Path) -> dict[str, Any]:
    wanted = f"{TOP}/icons.json"
    for member in members(path):
        if member.name == wanted:
            try:
                content = json.loads(member.read())
            except ValueError as error:
                raise BenchmarkError(f"{wanted} in {path} is not JSON; {_AGAIN}") from error
            if isinstance(content, dict) and isinstance(content.get("icons"), dict):
                return content
            raise BenchmarkError(f"{wanted} in {path} lists no icons; {_AGAIN}")
    raise BenchmarkError(f"{path} holds no {wanted}; {_AGAIN}")


def _icon(content: dict[str, Any], name: str) -> Icon:
    """An icon or what an alias stands for. Raises KeyError, TypeError or ValueError."""
    flip = False
    for _ in range(8):  # aliases of aliases
        if name in content["icons"]:
            break
        alias = content["aliases"][name]
        if alias.get("rotate") or alias.get("vFlip"):
            raise ValueError("a turned alias")
        flip, name = flip ^ bool(alias.get("hFlip")), alias["parent"]
    icon = content["icons"][name]
    sides = (float(icon.get(side, content.get(side, 16))) for side in ("width", "height"))
    corner = (float(icon.get(side, content.get(side, 0))) for side in ("left", "top"))
    return Icon(str(icon["body"]), *corner, *sides, flip=flip)


def require_renderer() -> None:
    """Raise BenchmarkError unless the pinned renderer is installed."""
    remedy = f"pip install '{EXTRA}'"
    try:
        found = metadata.version(RENDERER)
    except metadata.PackageNotFoundError as error:
        raise BenchmarkError(f"emoji are drawn by {RENDERER}, which is not installed: {remedy}") from error
    if found != RENDERER_VERSION:
        raise BenchmarkError(
            f"{RENDERER} {found} is installed, and emoji are drawn by {RENDERER_VERSION}, as other versions draw other"
            f" bytes: {remedy}"
        )


def drawn(elements: str, size: int) -> NDArray[np.uint8]:
    """SVG elements in a square of 1 x 1 as pixels, uint8 (size, size, 3); what they leave free is black."""
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 1 1" width="{size}" height="{size}">{elements}</svg>'
    )
    png = import_module("resvg_py").svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png)), formats=("PNG",)).convert("RGB"))
