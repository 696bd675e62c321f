"""Write the files of a new method: a working plugin and its test."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from smope_bench.benchmarks.disk import refusal
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.plugins import installed_points
from smope_bench.harness.registry.registry import KINDS
from smope_bench.harness.text import plain

TEMPLATES = Path(__file__).parent / "templates"
LONGEST = 60


def new_method(name: str, folder: Path) -> tuple[Path, Path]:
    """Write ``NAME.py`` and ``test_NAME.py`` into ``folder``, which is made where it is missing; returns both.

    Raises UserError for a name that cannot be a method's and a module's, and for a file that exists: nothing is overwritten.
    """
    _require_usable(name)
    plugin, test = folder / f"{name}.py", folder / f"test_{name}.py"
    texts = {plugin: _filled("method.txt", name), test: _filled("test.txt", name)}
    for file in texts:
        if file.exists() or file.is_symlink():
            raise UserError(
                f"{str(file)!r} exists and is not overwritten: choose another name, or a folder with --out DIR."
            )
    _require_free(name)
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            with file.open("x", encoding="utf-8") as stream:
                made.append(file)
                stream.write(text)
    except OSError as error:
        for file in made:  # half a method would be refused as one that exists
            file.unlink(missing_ok=True)
        raise UserError(
            f"the new method cannot be written into {str(folder)!r} ({refusal(error, folder)});"
            " name another folder with --out DIR."
        ) from error
    return plugin, test


def _require_usable(name: str) -> None:
    """Raise UserError for a name that is no valid method, module and, in camel case, class name."""
    shown = repr(plain(name, LONGEST))
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > LONGEST:
        raise UserError(
            f"{shown} cannot name a new method: use lower-case letters, digits and underscores, a letter first,"
            f" at most {LONGEST}, for example my_prompt."
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UserError(f"{shown} is a word of Python's own and cannot name a module: try my_{name}.")
    if name.startswith("test_") or name == "conftest":
        raise UserError(f"{shown} would be taken for a test by pytest: choose another name.")


def _require_free(name: str) -> None:
    from smope_bench import methods

    owners = ["built-in"] if name in methods.BUILTIN else []
    owners += [point.owner for point in installed_points(KINDS["method"].group) if point.name == name]
    if owners:
        raise UserError(f"method {name!r} already exists, from {owners[0]}: choose another name, such as my_{name}.")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"{name!r} is the name of an installed module, which {name}.py would hide: try my_{name}.")


def _filled(template: str, name: str) -> str:
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    class_name = _class_name(name, re.findall(r"\w+", text))
    title = name.replace("_", " ").strip().capitalize()
    return Template(text).substitute(name=name, title=title, class_name=class_name, config_name=f"{class_name}Config")


def _class_name(name: str, taken: Sequence[str]) -> str:
    """``my_prompt`` as ``MyPrompt``; a name that the file uses already gets a suffix."""
    found = "".join(part.capitalize() for part in name.split("_"))
    return f"{found}Method" if {found, f"{found}Config"} & set(taken) else found
