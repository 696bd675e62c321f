"""smope-bench: the reference comparison of prompt-based continual learning.

Methods and benchmarks of one's own build on ``smope_bench.api``. Importing this package imports neither torch nor pandas.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent
if not (_HERE / "harness").is_dir():
    # A checkout on a file system without symbolic links: the links beside this file are then plain text files.
    __path__.append(str(_HERE.parents[1]))
