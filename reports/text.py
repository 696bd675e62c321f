"""Numbers, p-values and names as text; removal of control characters."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal

NONE = "–"


def number(value: float | None, digits: int = 2) -> str:
    """A fixed-point number without a negative zero; an en dash for ``None``."""
    if value is None:
        return NONE
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def memory(value: float | None) -> str:
    """``858 MiB``, ``12.3 GiB``, or a dash."""
    if value is None:
        return NONE
    return f"{value:.0f} MiB" if value < 10_240 else f"{value / 1024:.1f} GiB"


def signed(value: float | None) -> str:
    """``+0.31``, ``-0.31`` or ``0.00``; a dash for ``None``."""
    text = number(value)
    return text if value is None or text.startswith("-") or float(text) == 0 else f"+{text}"


def whole(value: float | None) -> str:
    """``12 345`` with narrow spaces that no line breaks at; a dash for ``None``."""
    return NONE if value is None else f"{value:,.0f}".replace(",", "\u202f")


def listed(labels: Sequence[str], most: int = 8) -> str:
    """``a, b and c``; of a long list the first few and how many more there are."""
    shown = [*labels[:most], f"{len(labels) - most} more"] if len(labels) > most + 1 else list(labels)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def shortened(name: str, longest: int = 32) -> str:
    """A name as figures and sentences write it: cut where it is very long."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def plain(text: str) -> str:
    """One line of text without control characters."""
    flat = re.sub(r"[^\S\u00a0\u202f]+", " ", text).strip()
    return "".join(char if char.isprintable() or char in "\u00a0\u202f" else "\ufffd" for char in flat)


def without_controls(text: str) -> str:
    """``text`` with control characters replaced, except tabs and line feeds."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def file_name(text: str, taken: Collection[str] = ()) -> str:
    """``text`` as a name of files and anchors that is safe on every system and not in ``taken``."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60] or "suite"
    number, free = 2, name
    # Some file systems ignore case.
    while free.lower() in {other.lower() for other in taken}:
        number, free = number + 1, f"{name}-{number}"
    return free


Tone = Literal["", "word", "muted", "good", "bad"]


def p_text(p: float | None) -> str:
    """``0.062``, ``< 0.001``, or a dash."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
