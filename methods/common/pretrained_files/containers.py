"""Files of tensors by their first bytes: safetensors, torch's (zip or older), numpy's. Nothing in them is run."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smope_bench.methods.common.errors import MethodError

Container = Literal["safetensors", "torch", "npz"]

_FAILURES = (SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, LookupError)
_PARSERS = ("torch._weights_only_unpickler", "torch.serialization", "zipfile")
"""Modules whose errors of any kind are about the file: of struct, zlib and lzma, which they call, too."""
_NAMED = 3


def read_entries(path: Path, containers: Sequence[Container], allows: Sequence[Any] = ()) -> dict[str, Any]:
    """What a file of one of the ``containers`` holds at its top, by name; nothing in it is run.

    ``allows``: classes beyond tensors and plain containers that a pickle may name, as ``torch.serialization.safe_globals``
    takes them. Raises MethodError.
    """
    try:
        container = _sniff(path)
        if container not in containers:
            wanted = " or ".join(containers)
            raise MethodError(f"{path} is a {container} file, expected {wanted}")
        if container == "safetensors":
            return dict(load_file(path))
        _require_intact(path)
        return _read_npz(path) if container == "npz" else _read_torch(path, allows)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"names {named[1]}, which is" if named else "holds something that is"
        raise MethodError(f"{path} {what} no tensor: nothing of it was run or loaded") from error
    except Exception as error:
        is_damage = isinstance(error, _FAILURES) or raised_within(error, *_PARSERS)
        if isinstance(error, MethodError) or not is_damage:
            raise
        reason = " ".join(str(error).split())[:160]
        raise MethodError(f"{path} is truncated, damaged or no checkpoint ({reason})") from error


def raised_within(error: BaseException, *modules: str) -> bool:
    """Whether code of one of these modules or packages raised the error itself, and not a function that it called.

    Parsers raise TypeError and AttributeError for damaged files, as does any program for a fault of its own.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def container_of(path: Path) -> Container | None:
    """The kind of file by its first bytes; None for one that cannot be read or is no checkpoint."""
    try:
        return _sniff(path)
    except (MethodError, OSError, zipfile.BadZipFile):
        return None


def _sniff(path: Path) -> Container:
    """The kind of file by its first bytes; file names are unreliable."""
    with path.open("rb") as stream:
        start = stream.read(16)
    if start[8:9] == b"{":
        return "safetensors"
    if start[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(name.endswith("constants.pkl") for name in members):
            raise MethodError(f"{path} is a TorchScript program, not tensors alone: nothing of it was run or loaded")
        return "npz" if members and all(name.endswith(".npy") for name in members) else "torch"
    if start[:1] == b"\x80":
        return "torch"
    what = "empty" if not start else "a web page" if start.lstrip()[:1] == b"<" else "no checkpoint"
    what = "a Git LFS pointer, not the file it stands for" if start.startswith(b"version https:") else what
    raise MethodError(f"{path} is {what}")


def _require_intact(path: Path) -> None:
    """Check the checksums of a zip archive's members: a memory map would not check them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken:
            raise MethodError(f"{path} is damaged: the checksum of its part {broken!r} is wrong")


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in archive.files}


def _read_torch(path: Path, allows: Sequence[Any]) -> dict[str, Any]:
    with torch.serialization.safe_globals(list(allows)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols; unreadable files are refused below
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(loaded, Mapping):
        raise MethodError(f"{path} holds a {type(loaded).__name__}, not tensors by name")
    return {str(name): value for name, value in loaded.items()}


def some(names: Iterable[str]) -> str:
    """The first names of many, quoted, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more if names else "nothing"


def checked_tensor(value: Any, shape: tuple[int, ...], name: str, file: str) -> Tensor:
    """A tensor of a file in float32, of this shape and with finite values. Raises MethodError with its name and the file."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__
        raise MethodError(f"{file}: {name!r} is {found}, expected floating-point numbers")
    if tuple(value.shape) != shape:
        grid = "; position embeddings of another grid are not resized" if "pos_embed" in name else ""
        raise MethodError(f"{file}: {name!r} has shape {tuple(value.shape)}, expected {shape}{grid}")
    tensor = value.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise MethodError(f"{file}: {name!r} has values that are not finite, expected numbers")
    return tensor
