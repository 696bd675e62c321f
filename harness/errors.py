"""What a user did wrong, in one sentence: never shown with a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

LONG_LIST = 24


class UserError(Exception):
    """A mistake of the user's: the message names the value, the place and the remedy; the exit status is 2."""


class RunDivergedError(RuntimeError):
    """The loss of a run stopped being a finite number; the message names the step and the last good task."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'digits'? Known: digits, glyphs``; long lists only where nothing is close."""
    names = sorted(known)
    spellings = (name.lower().replace("-", "_"), name)
    close = next(filter(None, (difflib.get_close_matches(each, names, n=1, cutoff=0.5) for each in spellings)), [])
    if close and len(names) > LONG_LIST:
        return f"; did you mean {close[0]!r}?"
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(names) if names else 'none'}."


def without_home(text: str) -> str:
    """``text`` with the user's home folder written ``~``: what is kept of a run must not tell whose machine it was."""
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?![\w-]|\.\w)", "~", text) if len(home) > 1 else text
