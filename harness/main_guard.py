"""Scripts of a user's own that would be run again by what they start."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from smope_bench.harness.errors import UserError

WORKERS = "starts workers, each of which would run the script again"


def require_main_guard(what: str = WORKERS, otherwise: str = "use one worker (workers=1)") -> None:
    """Raise UserError in a script that got here from outside of ``if __name__ == "__main__"``.

    ``what`` the script does that runs it again, and the remedy ``otherwise``, end up in the message.
    """
    main = sys.modules.get("__main__")
    file, frame = getattr(main, "__file__", None), sys._getframe()
    while frame is not None and not (
        frame.f_globals is getattr(main, "__dict__", None) and frame.f_code.co_name == "<module>"
    ):
        frame = frame.f_back
    if file is None or frame is None:  # a notebook, or a thread
        return
    try:
        statements = ast.parse(Path(file).read_bytes()).body
    except (OSError, ValueError, SyntaxError):  # a compiled program
        return
    line = frame.f_lineno
    here = [node for node in statements if node.lineno <= line <= (node.end_lineno or node.lineno)]
    guards = [name for node in here if isinstance(node, ast.If) for name in ast.walk(node.test)]
    if here and not any(isinstance(name, ast.Name) and name.id == "__name__" for name in guards):
        raise UserError(
            f'{Path(file).name} line {line} {what}: put the call under if __name__ == "__main__":, or {otherwise}'
        )
