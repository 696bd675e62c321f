"""``--backbone NAME|FILE|timm:MODEL[.TAG]``: the name under which such a backbone is used. Files are imported here, once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.registry.registry import BUILT_IN, IN_DATA, Registries
from smope_bench.methods.common.backbone.imported import NOT_VERIFIED, import_vit, imported_under
from smope_bench.methods.common.backbone.pretrained import CheckpointBackbone, PreparedBackbone
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.methods.common.pretrained_files.any_vit import ReadViT

TIMM = "timm:"
SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin", ".npz", ".tar", ".ckpt"})
Notify = Callable[[str], None]


def to_stderr(text: str) -> None:
    """Print to standard error, so that what a command prints as JSON stays JSON."""
    print(text, file=sys.stderr)


def find_backbone(text: str, registries: Registries, data_root: Path, notify: Notify = to_stderr) -> str:
    """The name of the backbone that ``--backbone`` gives; a file or a model of timm's is imported into the data folder.

    A file with the tensors of a prepared backbone, or with the publicly stated hash of one, is that backbone. Raises UserError
    and MethodError; nothing is half-written.
    """
    if registries.backbones.knows(text):
        if registries.backbones.owner(text) == IN_DATA:
            registries.backbones.load(text).at(data_root).verify()
        return text
    if text.startswith(TIMM):
        from smope_bench.methods.common.pretrained_files.any_vit import read_timm

        return _kept(read_timm(text.removeprefix(TIMM)), text, "", registries, data_root, notify)
    return _of_file(_file(text, registries, data_root), registries, data_root, notify)


def _file(text: str, registries: Registries, data_root: Path) -> Path:
    path = Path(text).expanduser()
    if path.is_dir():
        raise UserError(f"--backbone {text!r} is a folder: give the weights file in it.")
    if path.is_file():
        return path
    if path.suffix in SUFFIXES or "/" in text:
        raise UserError(
            f"--backbone {text!r} does not exist: give a weights file, a name ('list backbones'), or timm:MODEL."
        )
    known = [*registries.backbones.names(), *(one.name for one in imported_under(data_root))]
    raise UserError(
        f"unknown backbone {text!r}{did_you_mean(text, known)} A file is given by its path, a model of timm's as timm:MODEL, one"
        " of your own code with --plugin FILE.py."
    )


def _of_file(path: Path, registries: Registries, data_root: Path, notify: Notify) -> str:
    from smope_bench.methods.common.pretrained_files.any_vit import read_vit

    from smope_bench.methods.common.pretrained_files.conversion import file_sha256

    try:
        source = file_sha256(path)
    except OSError as error:
        raise UserError(f"--backbone {str(path)!r} cannot be read: {error.strerror or error}.") from error
    for published in _published(registries, data_root):
        if published.is_published(source):
            if not _is_intact(published):
                published.prepare(_no_fetch, [path], notify)
            notify(f"{path.name} is backbone {published.name!r}: its hash is publicly stated")
            return published.name
    return _kept(read_vit(path), path.name, source, registries, data_root, notify)


def _kept(read: ReadViT, source: str, digest: str, registries: Registries, data_root: Path, notify: Notify) -> str:
    """The name of what was read: a prepared backbone's with the same tensors, else that of the import."""
    from smope_bench.methods.common.pretrained_files.conversion import tensors_sha256

    tensors = tensors_sha256(read.tensors)
    for published in _published(registries, data_root):
        if _is_intact(published) and published.sha256 == tensors:
            notify(f"{source} has the tensors of backbone {published.name!r} and is used as that")
            return published.name
    made = import_vit(read, source, digest, data_root)
    notify(f"{source}: {read.found}")
    notify(f"{source} is backbone {made.name} in {data_root}; {NOT_VERIFIED}: no public source states its hash")
    return made.name


def _published(registries: Registries, data_root: Path) -> Iterator[CheckpointBackbone]:
    """The published backbones, prepared or not."""
    for name in registries.backbones.names():
        if registries.backbones.owner(name) == BUILT_IN:
            found = registries.backbones.load(name)
            if isinstance(found, CheckpointBackbone):
                yield found.at(data_root)


def _is_intact(backbone: PreparedBackbone) -> bool:
    try:
        backbone.verify()
    except MethodError:
        return False
    return True


def _no_fetch(**asked: object) -> Path:
    raise AssertionError(f"nothing is downloaded where a file is given: {asked}")
