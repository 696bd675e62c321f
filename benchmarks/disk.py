"""What a file system says when it refuses to write, in words."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path


def shown_bytes(count: float) -> str:
    """``2.2 GB``, ``12.3 MB`` or ``4.5 kB``, in powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def refusal(error: OSError, place: Path) -> str:
    """Why ``place`` cannot be written: the system's words, and what is left there where something has run out.

    ``No space left on device, 4.1 kB free``. A file system without free inodes has space and says the same: then that is named.
    """
    said = error.strerror or type(error).__name__
    with contextlib.suppress(OSError, ImportError):
        if error.errno == errno.EFBIG:
            import resource

            limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
            return said if limit == resource.RLIM_INFINITY else f"{said}, ulimit -f allows {shown_bytes(limit)}"
        if error.errno == errno.ENOSPC:
            there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
            if hasattr(os, "statvfs"):
                found = os.statvfs(there)
                if found.f_files and not found.f_favail:
                    return f"{said}: its file system cannot hold more files, all inodes are taken"
            return f"{said}, {shown_bytes(shutil.disk_usage(there).free)} free"
    return said


def remedy(error: OSError) -> str:
    """What to do about ``refusal`` at that place: ``make room there`` where something has run out, else ``make it writable``."""
    has_run_out = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "make room there" if has_run_out else "make it writable"
