"""``python tests/robustness/power_loss``: thousands of states that a power loss can leave of a tiny life of the product.

It prints its figures as JSON; the exit status is 1 where a promise is broken, 2 where nothing can be recorded here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

from file_calls import ABSENT_TRACER, can_record  # pyright: ignore[reportMissingImports]
from life import METHODS  # pyright: ignore[reportMissingImports]
from power_sweep import Sweep  # pyright: ignore[reportMissingImports]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tests/robustness/power_loss", description=__doc__)
    parser.add_argument("--draws", type=int, default=4, help="random states of either file system a point of the life")
    parser.add_argument("--continued", type=int, default=300, help="states from which the life goes on")
    parser.add_argument("--methods", default=",".join(METHODS), help="of which runs are trained; with one, no report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where all is kept; a temporary folder unless given")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if not can_record(folder):
            print(f"error: {ABSENT_TRACER}; on Debian: apt-get install strace", file=sys.stderr)
            return 2
        importlib.import_module("timm")  # with torch
        sweep = Sweep.lived(folder, asked.methods.split(","))
        figures = {"control": sweep.control(), **sweep.try_all(asked.draws, asked.seed, asked.continued)}
    print(json.dumps(figures, indent=1))
    return 1 if figures["faults"] or not figures["control"] else 0


if __name__ == "__main__":
    sys.exit(main())
