"""Backbones with published weights: found, checked and converted once, then verified by hash before every use.

Importing this module imports no torch.
"""

from __future__ import annotations

import json
import os
import shlex
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from smope_bench.methods.common.backbone.architectures import skeleton
from smope_bench.methods.common.backbone.backbones import (
    VIT_B16,
    Backbone,
    Fetch,
    ProgressCallback,
    WeightsMissingError,
    silent,
)
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.methods.common.vit.vit import PromptedViT

WEIGHTS_FOLDER = "weights"
"""The folder of all prepared weights in the data folder."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class PreparedBackbone(Backbone):
    """A ViT in ``root/weights``: tensors in ``NAME.safetensors``, and ``NAME.json`` with their hash and the file's."""

    root: Path | None
    keys: ClassVar[Mapping[str, type]] = {"backbone": str, "sha256": str, "file_sha256": str, "file_bytes": int}

    @property
    def sha256(self) -> str:
        """Hash of the prepared tensors, whatever file they came from.

        Raises WeightsMissingError where there are none, MethodError where their file has another size: no byte is read.
        """
        expected = self._manifest()
        self._require(expected, lambda _: expected["file_sha256"])
        return str(expected["sha256"])

    def verify(self) -> Path:
        """Path of the prepared weights after their bytes are checked. Raises WeightsMissingError or MethodError."""
        from smope_bench.methods.common.pretrained_files.conversion import file_sha256

        return self._require(self._manifest(), file_sha256)

    def _require(self, expected: Mapping[str, Any], hashed: Callable[[Path], str]) -> Path:
        """The weights' path if they have the expected size and hash."""
        file = self._file()
        try:
            size = file.stat().st_size
            found = hashed(file) if size == expected["file_bytes"] else f"not read, as it has {size} bytes"
        except FileNotFoundError as error:
            raise self._missing() from error
        except OSError as error:
            raise MethodError(f"weights of backbone {self.name!r}: {file} cannot be read ({error.strerror})") from error
        if found != expected["file_sha256"]:
            raise MethodError(
                f"weights of backbone {self.name!r}: {file} has changed since it was prepared (SHA-256 {found[:40]},"
                f" expected {expected['file_sha256'][:16]}... of {expected['file_bytes']} bytes); {self._again}"
            )
        return file

    def load(self) -> PromptedViT:
        """The frozen backbone in float32 on the CPU, mapped from the prepared file. Raises MethodError."""
        from safetensors.torch import load_file

        return self.fill(skeleton(self.architecture), load_file(self.verify()), assign=True)

    @property
    @abstractmethod
    def _again(self) -> str:
        """How to get intact weights, as the end of a sentence."""

    @abstractmethod
    def _missing(self) -> WeightsMissingError:
        """The error for weights that are not there, with all ways to get them."""

    def _file(self) -> Path:
        if self.root is None:
            raise self._missing()
        return self.root / WEIGHTS_FOLDER / f"{self.name}.safetensors"

    def _manifest(self) -> dict[str, Any]:
        path = self._file().with_suffix(".json")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise self._missing() from error
        except (OSError, ValueError, RecursionError) as error:
            raise MethodError(
                f"weights of backbone {self.name!r}: {path} cannot be read: {error}; delete it and {self._again}"
            ) from error
        fits = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in self.keys.items())
        if not fits or found["backbone"] != self.name:
            raise MethodError(
                f"weights of backbone {self.name!r}: {path} is no manifest of it; delete it and {self._again}"
            )
        return found


@dataclass(frozen=True)
class CheckpointBackbone(PreparedBackbone):
    """A published ViT. ``at(data_root)`` gives the one whose files lie in ``data_root/weights``.

    ``files``: the published file's name in ``weights/downloads`` and other names under which copies of it go.
    ``licence``: of the weights, and who states it.
    ``hub``: its Hugging Face repository, if it has one; ``url`` names the file itself otherwise.
    ``digest``: ``sha256:<hex>`` where it is publicly known: another file is refused. ``known``: further publicly stated
    SHA-256 digests, or their first digits, of files with these weights. ``marks``: shapes of unused tensors that distinguish
    this file from others of the same architecture, None for a tensor that it must not have. ``twins``: layouts of other files
    with the same tensors, with their marks.
    """

    name: str
    summary: str
    layout: str
    files: tuple[str, ...]
    megabytes: int
    url: str = ""
    hub: str = ""
    digest: str | None = None
    marks: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    architecture: Mapping[str, Any] = field(default_factory=lambda: VIT_B16)
    root: Path | None = None
    is_random: bool = False
    known: tuple[str, ...] = ()
    twins: Mapping[str, Mapping[str, tuple[int, ...] | None]] = field(default_factory=dict)
    licence: str = ""

    def at(self, root: Path) -> CheckpointBackbone:
        return replace(self, root=Path(root))

    @property
    def is_verified(self) -> bool:
        """Whether the file that was prepared has a publicly stated hash; False before ``prepare``."""
        try:
            return self.is_published(str(self._manifest().get("source_sha256", "")))
        except MethodError:
            return False

    def is_published(self, source_sha256: str) -> bool:
        """Whether a file of this hash is publicly stated to be of this backbone."""
        digests = (self.digest.removeprefix("sha256:"), *self.known) if self.digest else self.known
        return source_sha256.startswith(digests)

    def prepare(self, fetch: Fetch, given: Sequence[Path] = (), progress: ProgressCallback = silent) -> None:
        """Find the published file, check every tensor of it and write what ``load`` reads; nothing is written on an error.

        Looked for in ``given`` (the file, or a folder with it), in ``weights/downloads``, in the Hugging Face cache, and
        at its address, through ``fetch``. Raises MethodError, and what ``fetch`` raises.
        """
        from smope_bench.methods.common.pretrained_files.conversion import file_sha256, tensors_sha256, write_prepared

        if not given and self._is_prepared(progress):
            return
        source = self._find(fetch, given, progress)
        progress(f"{self.name}: reading {source}")
        tensors, dropped = self._convert(source)
        facts = {
            "backbone": self.name,
            "layout": self.layout,
            "architecture": dict(self.architecture),
            "source": source.name,
            "source_sha256": file_sha256(source),
            "dropped": sorted(dropped),
            "sha256": tensors_sha256(tensors),
        }
        write_prepared(self._file(), tensors, facts)
        left_out = f", left out {len(dropped)} that no method uses (heads and the like)" if dropped else ""
        if not self.is_published(facts["source_sha256"]):
            progress(
                f"{self.name}: weights not verified: no public hash is known of {source.name} ({facts['source_sha256']})"
            )
        progress(f"{self.name}: kept {len(tensors)} tensors{left_out}; SHA-256 {facts['sha256'][:16]}...")

    def _convert(self, source: Path) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
        from smope_bench.methods.common.pretrained_files.containers import container_of
        from smope_bench.methods.common.pretrained_files.conversion import LAYOUTS, convert

        container, own = container_of(source), {self.layout: self.marks, **self.twins}
        layout = next((name for name in own if container in LAYOUTS[name].containers), self.layout)
        shapes = {name: tuple(value.shape) for name, value in self.skeleton().vit.state_dict().items()}
        try:
            converted = convert(source, layout, shapes, int(self.architecture["num_heads"]))
        except MethodError as error:
            raise MethodError(f"weights of backbone {self.name!r}: {error}; {self._wanted()}") from error
        for name, shape in own[layout].items():
            found = converted.dropped.get(name)
            if found != shape:
                raise MethodError(
                    f"weights of backbone {self.name!r}: {source} is another checkpoint of the same architecture"
                    f" (its {name!r} is {found or 'absent'}, expected {shape or 'none'}); {self._wanted()}"
                )
        return converted.tensors, converted.dropped

    def _find(self, fetch: Fetch, given: Sequence[Path], progress: ProgressCallback) -> Path:
        if (file := self._among(given)) is not None:
            return self._matching(file)
        downloads = self._file().parent / "downloads"
        if not (downloads / self.files[0]).is_file():
            file = _first_of(downloads, self.files) or self._cached()
            if file is not None:
                return self._matching(file)
        return fetch(
            name=self.files[0],
            urls=(self.address,),
            digest=self.digest,
            folder=downloads,
            given=(),
            progress=progress,
        )

    def _among(self, given: Sequence[Path]) -> Path | None:
        """The weights file among the given files and folders: by its name, or the only one."""
        names = (*self.files, *(HUB_FILES if self.hub else ()))
        for path in given:
            if not path.exists():
                raise MethodError(f"weights of backbone {self.name!r}: {path} does not exist; {self._wanted()}")
            file = _first_of(path, names) if path.is_dir() else path if path.name in names else None
            if file is not None:
                return file
        if len(given) == 1 and given[0].is_file():
            return given[0]
        if given:
            raise MethodError(
                f"weights of backbone {self.name!r}: none of {', '.join(map(str, given))} is or has {' or '.join(names)};"
                f" {self._wanted()}"
            )
        return None

    def _matching(self, file: Path) -> Path:
        from smope_bench.methods.common.pretrained_files.conversion import file_sha256

        if self.digest and (found := file_sha256(file)) != self.digest.removeprefix("sha256:"):
            raise MethodError(
                f"weights of backbone {self.name!r}: {file} has SHA-256 {found[:16]}..., the published file has"
                f" {self.digest.removeprefix('sha256:')[:16]}...; {self._wanted()}"
            )
        return file

    def _cached(self) -> Path | None:
        """The file in the Hugging Face cache, if it is there; no network."""
        if not self.hub:
            return None
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(self.hub, name) for name in HUB_FILES)
        return next((Path(path) for path in found if isinstance(path, str)), None)

    @property
    def address(self) -> str:
        """Where the file is published; ``HF_ENDPOINT`` names a mirror of Hugging Face, as in its own client."""
        hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        return f"{hub}/{self.hub}/resolve/main/{HUB_FILES[0]}" if self.hub else self.url

    def _is_prepared(self, progress: ProgressCallback) -> bool:
        try:
            self.verify()
        except WeightsMissingError:
            return False
        except MethodError as error:
            progress(f"{error}: preparing it again")
            return False
        progress(f"{self.name}: prepared already")
        return True

    @property
    def _preparation(self) -> str:
        """The command that prepares these weights; the harness writes how its program was started, and adds the plugins."""
        place = [] if self.root in (None, Path("data")) else ["--data", str(self.root)]
        return shlex.join(["smope-bench", "data", "prepare", self.name, *place])

    @property
    def _again(self) -> str:
        return f"run `{self._preparation}` again"

    def _wanted(self) -> str:
        return (
            f"use the file published at {self.address} (about {self.megabytes} MB): remove this one, or give the right one"
            f" with `{self._preparation} --from FILE`"
        )

    def _missing(self) -> WeightsMissingError:
        folder = "the data folder's weights/downloads" if self.root is None else self.root / "weights" / "downloads"
        return WeightsMissingError(
            f"weights of backbone {self.name!r} are not prepared: run `{self._preparation}` (downloads about"
            f" {self.megabytes} MB from {self.address}), or `{self._preparation} --from FILE` with that file, or put"
            f" it into {folder} as {self.files[0]} and run `{self._preparation}`"
        )


def _first_of(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
