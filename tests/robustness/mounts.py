"""Mounts that only this process and its children see, and that end with them (Linux)."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000


class CannotMount(Exception):
    """The system does not let this process mount anything."""


def tmpfs(place: Path, mib: int) -> None:
    """Mount an empty file system of that size there, for this process alone.

    Without root the process becomes root of a user namespace of its own, which the system may refuse, and does to a
    process with several threads. Raises CannotMount.
    """
    place.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWNS) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
            raise CannotMount(f"a mount namespace is refused ({os.strerror(ctypes.get_errno())})")
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place))


def make_read_only(place: Path) -> None:
    """From now on nothing can be written to what is mounted there. Raises CannotMount."""
    _mount("-o", "remount,bind,ro", str(place))


def _mount(*words: str) -> None:
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotMount(f"mount: {error.strerror}") from error
    if done.returncode:
        raise CannotMount(done.stderr.strip() or f"mount {' '.join(words)} ended with status {done.returncode}")
