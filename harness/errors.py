"""Errors of users and of runs, and hints for mistyped names."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.text import DATA, RESULTS, whole_commands
from smope_bench.methods.common.errors import MethodError

LONG_LIST = 24
CLOSE = 0.6
"""Least similarity by ``difflib`` of a name offered for a mistyped one: 'ncn' and 'ncm' have 0.67, 'foo' and 'oslo' 0.57."""


class UserError(Exception):
    """A mistake of the user, shown without traceback; the message names value, place and remedy; exit status 2."""


class RunDivergedError(RuntimeError):
    """The loss of a run is not finite; the message names the step and the last good task."""


@contextlib.contextmanager
def as_user_errors(plugins: Iterable[Path] = (), data: Path = DATA, results: Path = RESULTS) -> Iterator[None]:
    """Mistakes found in this block as UserError, with commands that can be pasted: they name these folders and plugins."""
    try:
        yield
    except (UserError, BenchmarkError, MethodError) as error:
        message = whole_commands(str(error), plugins, data, results)
        if isinstance(error, UserError) and message == str(error):
            raise
        raise UserError(message) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'digits'? Known: digits, glyphs``; long lists only where no name is close.

    The only known name that begins with the given one is closer than any that is spelt alike.
    """
    names = sorted(known)
    begun = [one for one in names if one.startswith(name)]
    spellings = (name.lower().replace("-", "_"), name)
    close = next(filter(None, (difflib.get_close_matches(each, names, n=1, cutoff=CLOSE) for each in spellings)), [])
    if len(begun) == 1:
        close = begun
    if close and len(names) > LONG_LIST:
        return f"; did you mean {close[0]!r}?"
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(names) if names else 'none'}."


def without_home(text: str) -> str:
    """``text`` with ``~`` for the user's home folder: stored results must not identify the user."""
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?![\w-]|\.\w)", "~", text) if len(home) > 1 else text
