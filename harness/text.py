"""Text of strangers made safe to print: names, cards and errors of plugins may hold anything."""

from __future__ import annotations

import unicodedata
from typing import Any

LONGEST = 2_000
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Control, format (bidirectional overrides, zero width), surrogate, line and paragraph separator.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain(value: object, longest: int = LONGEST) -> str:
    """``value`` as one line that no terminal takes for a command: white space joined, unprintable characters replaced.

    What cannot even be turned into text is named by its type.
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
    """A row of a listing with plain texts: what is neither a number, a list nor a mapping becomes its text; None stays."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {plain(key): plain_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(one) for one in value]
    return plain(value)


def sentence(error: BaseException) -> str:
    """``ValueError: what it says (line 3)`` in one plain line; the line of a syntax error only."""
    text = plain(error)
    where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
