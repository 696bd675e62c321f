"""Names that survive a power loss, and names of what is unfinished.

POSIX: fsync of a file keeps its content; its name is kept by an fsync of the folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, durably. Raises OSError.

    The name of one that is there already becomes durable, too: the process that made it may have been killed before it was.
    """
    above = [parent for parent in folder.parents if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in (*reversed(above), folder):
        sync_folder(made.parent)


def unfinished(folder: Path, prefix: str) -> Path:
    """A path in ``folder`` that nobody uses, for what is renamed once it is whole.

    Made there by ``open("xb")`` or ``mkdir``, it has the permissions that the user's mask gives; ``tempfile`` makes what its owner
    alone can read, which would shut out all others from results and data that are shared.
    """
    return folder / f"{prefix}{secrets.token_hex(8)}"


def sync_folder(folder: Path) -> None:
    """Make the present entries of a folder durable, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
