"""Processes that begin with what this one has imported. Importing torch and timm anew takes seconds in each process.

For tests of what processes do to each other: kills, signals, exit statuses, workers. What depends on how Python starts, on
the order of imports or on PYTHONPATH needs a new Python. Programs have one thread of PyTorch: a fork has no threads but one,
and GNU OpenMP cannot start others where the parent had some. Coverage does not see what a fork does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn


class Forked:
    """``program`` in a fork of this process: the part of ``subprocess.Popen`` that tests use.

    ``program`` returns the exit status or raises SystemExit. ``out`` and ``err`` are files, which are appended to. The process
    leads a session of its own, works in ``cwd``, and starts its workers by forking as well.
    """

    def __init__(self, program: Callable[[], int], out: Path, err: Path, cwd: Path) -> None:
        self.returncode: int | None = None

        def begin() -> int:  # pragma: no cover
            os.setsid()
            os.chdir(cwd)
            for file, descriptor in ((out, 1), (err, 2)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
            sys.modules["__main__"] = types.ModuleType("__main__")
            multiprocessing.util.spawnv_passfds = spawn_by_fork
            return program()

        self.pid = _fork(begin)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status. Raises subprocess.TimeoutExpired after so many seconds."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.01)
        return status

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def run_script(script: Path, options: Sequence[str], folder: Path) -> tuple[int, dict[str, Any]]:
    """A script, or a folder with a ``__main__.py``, run in a fork that works in ``folder``: its status, and the JSON it prints."""

    def program() -> int:  # pragma: no cover
        sys.argv, sys.path[:0] = [str(script), *options], [str(script if script.is_dir() else script.parent)]
        runpy.run_path(str(script), run_name="__main__")
        return 0

    out, err = folder / "out", folder / "err"
    status = Forked(program, out, err, folder).wait(1800)
    assert out.read_text(), err.read_text()[-2000:]
    return status, json.loads(out.read_text())


def spawn_by_fork(path: Any, args: list[Any], passfds: Sequence[int]) -> int:
    """In place of ``multiprocessing.util.spawnv_passfds``: a fork that executes what a new Python would be given by ``-c``."""
    code, *arguments = args[args.index("-c") + 1 :]
    if "spawn_main" not in code:  # the resource tracker: a Python without imports starts at once
        return _spawn(path, args, passfds)

    def program() -> int:  # pragma: no cover
        sys.argv = ["-c", *arguments]
        exec(code, {"__name__": "__main__"})
        return 0

    return _fork(program, passfds)


_spawn = multiprocessing.util.spawnv_passfds


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Worker processes that this process starts in this block are forks of it (Linux), or new ones (elsewhere)."""
    before = multiprocessing.util.spawnv_passfds
    if sys.platform == "linux":
        multiprocessing.util.spawnv_passfds = spawn_by_fork
    try:
        yield
    finally:
        multiprocessing.util.spawnv_passfds = before


def _fork(program: Callable[[], int], keep: Iterable[int] = ()) -> int:
    """The id of a new process that does ``program`` as if it had just been started; of open files it has 0 to 2 and ``keep``."""
    return os.fork() or _live(program, {0, 1, 2, *keep})


def _live(program: Callable[[], int], keep: set[int]) -> NoReturn:  # pragma: no cover
    status = 1
    try:
        _begin_anew(keep)
        status = program()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status & 0xFF)


def _begin_anew(keep: set[int]) -> None:  # pragma: no cover
    gc.freeze()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    # Open files become the null device and are not closed: an object that holds one would later close another's.
    null = os.open(os.devnull, os.O_RDWR)
    for number in {int(entry.name) for entry in Path("/dev/fd").iterdir()} - keep - {null}:
        os.dup2(null, number, inheritable=False)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))  # noqa: SIM115
    multiprocessing.util._finalizer_registry.clear()  # pyright: ignore[reportAttributeAccessIssue]
    multiprocessing.util._run_after_forkers()  # pyright: ignore[reportAttributeAccessIssue]
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        setattr(torch, "set_num_threads", lambda _: None)  # noqa: B010
