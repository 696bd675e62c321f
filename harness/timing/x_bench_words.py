"""How measurements are written, on a terminal and on a page alike: numbers, spreads, and what measures are called.

Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

HEADINGS = {
    "cold": "times uncached, first run",
    "dim": "dimensions",
    "kept_mb": "kept MiB",
    "of_peak": "of the matrix product's speed",
    "peak_mb": "peak MiB",
    "run_s": "run, s",
    "saved_mb": "kept for backward, MiB",
    "start_s": "start, s",
    "task_mb": "of it a task, MiB",
    "tera_per_s": "TFLOP/s",
    "to_bare": "times bare",
    "to_floor": "times its floor",
    "to_passes": "times its passes",
    "to_used": "times the form used",
    "uncached_s": "uncached, s",
    "warm": "times uncached, later runs",
}


def heading(measure: str) -> str:
    """A measure's name as it is read."""
    return HEADINGS.get(measure, measure.replace("_", " "))


def number(value: float) -> str:
    """Three digits or more: ``1,234``, ``12.3``, ``1.23``, ``0.123``; whole numbers below a thousand as they are."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.2g}"


def spread_text(found: Mapping[str, float] | None) -> str:
    """``0.951 (0.930 to 0.972)``: a median with its extremes; the number alone where they are equal, ``–`` for nothing."""
    if found is None:
        return "–"
    if found["least"] == found["most"]:
        return number(found["median"])
    return f"{number(found['median'])} ({number(found['least'])} to {number(found['most'])})"
