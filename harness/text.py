"""Untrusted text made safe to print: names, cards and errors of plugins may contain anything."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import sys
import traceback
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

INSTALLED = "smope-bench"
"""Name of the installed command."""
RESULTS, DATA = Path("results"), Path("data")
"""Results folder and data folder of commands that name none."""
LONGEST = 2_000
_COMMAND = re.compile(rf"`{INSTALLED} ((data|migrate)\b[^`]*)`")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Control, format (bidirectional overrides, zero width), surrogate, line and paragraph separator.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def program() -> str:
    """The command line's program as it was started, quoted for a shell: ``smope-bench`` or ``python run_all.py``.

    ``smope-bench`` where it was not started as a command, as in a script.
    """
    started = Path(sys.argv[0] if sys.argv else "")
    if started.name == "run_all.py":
        return shlex.join([sys.orig_argv[0], sys.argv[0]])
    found = shutil.which(INSTALLED)
    if started.stem != INSTALLED or (found is not None and os.path.realpath(found) == os.path.realpath(started)):
        return INSTALLED
    return shlex.quote(sys.argv[0])


def option_words(settings: Iterable[str] = (), plugins: Iterable[Path] = (), data: Path = DATA) -> list[str]:
    """The words of a command for some ``--set``, ``--plugin`` and a data folder that is not the usual one."""
    words = [word for text in settings for word in ("--set", text)]
    words += [word for file in plugins for word in ("--plugin", str(file))]
    return words if data == DATA else [*words, "--data", str(data)]


def shell_command(
    *words: str,
    settings: Iterable[str] = (),
    plugins: Iterable[Path] = (),
    data: Path = DATA,
    results: Path = RESULTS,
) -> str:
    """A command of this program that can be pasted into a shell; ``results``: the folder that it is about."""
    place = [] if results == RESULTS else ["--results", str(results)]
    return f"{program()} {shlex.join([*words, *option_words(settings, plugins, data), *place])}"


def whole_commands(message: str, plugins: Iterable[Path] = (), data: Path = DATA, results: Path = RESULTS) -> str:
    """A message whose commands can be pasted here.

    These are ``smope-bench data ...`` of methods and benchmarks and ``smope-bench migrate`` of records, in backquotes: what writes
    them knows neither how the program was started nor all folders and plugins. An option that a command has stays as it is.
    """
    options = {
        "data": {"--plugin": option_words(plugins=plugins), "--data": option_words(data=data)},
        "migrate": {"--results": [] if results == RESULTS else ["--results", str(results)]},
    }

    def whole(found: re.Match[str]) -> str:
        more = [shlex.join(words) for option, words in options[found[2]].items() if words and option not in found[1]]
        return f"`{' '.join((program(), found[1], *more))}`"

    return _COMMAND.sub(whole, message)


def plain(value: object, longest: int = LONGEST) -> str:
    """``value`` as one line without terminal commands: white space joined, unprintable characters replaced.

    A value whose ``str`` fails is named by its type.
    """
    try:
        text = str(value)
    except Exception:
        text = f"<{type(value).__name__} without a text>"
    joined = " ".join(text[: 4 * longest].split())
    shown = "".join(
        _REPLACEMENT if unicodedata.category(character) in _UNPRINTABLE else character for character in joined
    )
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def plain_values(value: Any) -> Any:
    """``plain`` for all texts in a JSON value; other objects become texts, numbers and None stay."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {plain(key): plain_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(one) for one in value]
    return plain(value)


def sentence(error: BaseException) -> str:
    """``ValueError: message`` in one plain line, with the line number of a syntax error."""
    text = plain(error)
    where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def where(error: BaseException, code: type) -> str:
    """The place of an error in the file of a class, such as `` (end_task, my_prompt.py line 47)``; else empty."""
    try:
        file = inspect.getfile(code)
    except (TypeError, OSError):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({frames[-1].name}, {Path(file).name} line {frames[-1].lineno})" if frames else ""
