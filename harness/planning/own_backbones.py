"""``--backbone NAME|FILE|timm:MODEL[.TAG]``: the name under which such a backbone is used. Files are imported here, once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.planning.settings import Setting, scoped, validated
from smope_bench.harness.registry.registry import BUILT_IN, IN_DATA, Registries
from smope_bench.harness.text import shell_command
from smope_bench.methods.common.backbone.backbones import Channels, is_channels
from smope_bench.methods.common.backbone.imported import NOT_VERIFIED, import_vit, imported_under
from smope_bench.methods.common.backbone.pretrained import CheckpointBackbone, PreparedBackbone
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.methods.common.pretrained_files.any_vit import ReadViT


class FileSettings(BaseModel):
    """What a weights file does not say of its ViT, where the reader guesses wrongly: ``backbone.heads`` and so on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    heads: int | None = Field(default=None, ge=1, description="attention heads of each block")
    epsilon: float | None = Field(default=None, gt=0, lt=1, description="epsilon of the norms")
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"] | None = Field(
        default=None, description="activation of the hidden layers"
    )
    model: str | None = Field(default=None, description="MODEL[.TAG] of timm that the file holds")
    mean: Channels | None = Field(default=None, description="mean of red, green and blue, of pixels in [0, 1]")
    std: Channels | None = Field(default=None, description="standard deviation of red, green and blue")

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _of_colours(cls, value: Any, info: ValidationInfo) -> Any:
        least = "0 <" if info.field_name == "std" else "0 <="
        if value is not None and not is_channels(value, positive=info.field_name == "std"):
            raise ValueError(f"give three numbers for red, green and blue, {least} each <= 1, as [0.5,0.5,0.5]")
        return value


TIMM = "timm:"
SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin", ".npz", ".tar", ".ckpt"})
Notify = Callable[[str], None]


def to_stderr(text: str) -> None:
    """Print to standard error, so that what a command prints as JSON stays JSON."""
    print(text, file=sys.stderr)


def without_file_settings(settings: Iterable[Setting]) -> tuple[tuple[Setting, ...], FileSettings]:
    """The settings that apply to runs, and those that describe a weights file. Raises UserError."""
    settings = tuple(settings)
    own = [
        one
        for one in settings
        if one.path[0] == "backbone" and one.path[1:2] and one.path[1] in FileSettings.model_fields
    ]
    return tuple(one for one in settings if one not in own), validated(
        FileSettings, scoped(own, "backbone"), "backbone"
    )


def file_under(folder: Path, text: str) -> str:
    """A backbone as a suite's file in ``folder`` names it: the path of a weights file is relative to that folder."""
    if text.startswith(TIMM) or not (Path(text).suffix in SUFFIXES or "/" in text):
        return text
    return str(folder / Path(text).expanduser())


def find_backbone(
    text: str | None,
    registries: Registries,
    data_root: Path,
    notify: Notify = to_stderr,
    described: FileSettings | None = None,
) -> str | None:
    """The name of the backbone that ``--backbone`` gives; a file or a model of timm's is imported into the data folder.

    A file with the tensors of a prepared backbone, or with the publicly stated hash of one, is that backbone. Raises UserError
    and MethodError; nothing is half-written.
    """
    given = {name: value for name, value in described or () if value is not None}
    if text is not None and not given and text in registries.files:
        return registries.files[text]
    if given and (text is None or registries.backbones.knows(text)):
        raise UserError(f"backbone.{next(iter(given))} describes a weights file: give the file with --backbone FILE.")
    if text is None:
        return None
    if registries.backbones.knows(text):
        if registries.backbones.owner(text) == IN_DATA:
            registries.backbones.load(text).at(data_root).verify()
        return text
    from smope_bench.methods.common.pretrained_files.any_vit import read_timm, read_vit, timm_model

    if text.startswith(TIMM):
        if wrong := given.keys() - {"mean", "std"}:
            raise UserError(f"backbone.{min(wrong)} is known of {text}: leave it out.")
        model = text.removeprefix(TIMM)
        cached = timm_model(model).cached()
        if cached is not None:
            return _of_file(
                cached, text, partial(read_timm, model, file=cached, **given), registries, data_root, notify
            )
        return _kept(read_timm(model, **given), text, "", registries, data_root, notify)  # says where to get it
    path = _file(text, registries, data_root)
    return _of_file(path, path.name, partial(read_vit, path, **given), registries, data_root, notify)


def _file(text: str, registries: Registries, data_root: Path) -> Path:
    path = Path(text).expanduser()
    try:
        if text and path.is_dir():
            raise UserError(f"--backbone {text!r} is a folder: give the weights file in it.")
        if path.is_file():
            return path
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UserError(f"--backbone {text!r} cannot be read: {error.strerror}") from error
    if path.suffix in SUFFIXES or "/" in text:
        raise UserError(
            f"--backbone {text!r} does not exist: give a weights file, timm:MODEL, or a name, as shown by: "
            + shell_command("list", "backbones", plugins=registries.plugins, data=data_root)
        )
    known = [*registries.backbones.names(), *(one.name for one in imported_under(data_root))]
    raise UserError(
        f"unknown backbone {text!r}{did_you_mean(text, known)} A file is given by its path, a model of timm's as timm:MODEL, one"
        " of your own code with --plugin FILE.py."
    )


def _of_file(
    path: Path, label: str, read: Callable[[], ReadViT], registries: Registries, data_root: Path, notify: Notify
) -> str:
    from smope_bench.methods.common.pretrained_files.conversion import file_sha256

    try:
        source = file_sha256(path)
    except OSError as error:
        raise UserError(f"--backbone {str(path)!r} cannot be read: {error.strerror or error}.") from error
    for published in _published(registries, data_root):
        if published.is_published(source):
            if not _is_intact(published):
                published.prepare(_no_fetch, [path], notify)
            notify(f"{label} is backbone {published.name!r}: its hash is publicly stated")
            return published.name
    return _kept(read(), label, source, registries, data_root, notify)


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
