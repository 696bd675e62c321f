"""Commands by name: a function with the decorator ``command`` is one, in whichever of these places its file lies.

Searched are the modules of ``commands`` beside this file, those of the reports that are named in ``OTHERS``, and the entry points
``smope_bench.commands`` of installed packages.
``--plugin FILE.py`` adds none: a command must be known before its options are read. This module imports nothing heavy.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.plugins import (
    InstalledEntryPoint,
    call_outside_code,
    installed_points,
    is_usable_name,
    unusable_name,
)
from smope_bench.harness.text import INSTALLED, program

GROUP = "smope_bench.commands"
ROOM = "smope_bench.harness.cli.commands"
OTHERS = ("smope_bench.reports.cli", "smope_bench.reports.timing.report", "smope_bench.reports.timing.store")
EXAMPLES = {
    "list": "list methods",
    "describe": "describe digits",
    "doctor": "doctor --json",
    "data": "",
    "data prepare": "data prepare cifar100",
    "data list": "data list --json",
    "data remove": "data remove digits",
    "plan": "plan table1 --seeds 0",
    "run": "run smoke --seeds 0-2",
    "status": "status --watch",
    "cancel": "cancel smoke",
    "track": "track results --to tensorboard",
    "report": "report smoke --out page",
    "predictions": "predictions 3f2a --as csv",
    "predict": "predict 3f2a picture.jpg",
    "export": "export 3f2a --to model",
    "extend": "extend 3f2a --from new_pictures",
    "tune": "tune my_prompt digits --plugin my_prompt.py",
    "suite": "suite table1 --out my.yaml",
    "new-method": "new-method my_prompt --out plugins",
    "check": "check my_prompt.py",
    "cost": "cost --out cost.md",
    "bench": "",
    "bench step": "bench step --backbone tiny --batch 1",
    "migrate": "migrate --results results",
    "verify": "verify --results results",
}
"""An example of each command, in the order of work, which is that of ``--help``; other commands follow by name."""

QUOTED = re.compile(r"'((?:list|data) [a-z]+)'")
"""A command that a help text names."""

Function = TypeVar("Function", bound=Callable[..., Any])
NAME = "smope_bench_command"
"""Attribute of a function with the name of the command that it is."""


def command(name: str) -> Callable[[Function], Function]:
    """Decorator: makes a function, whose parameters typer reads, the command ``name``; ``"data prepare"`` is one of a group.

    The docstring is the help.
    """

    def mark(function: Function) -> Function:
        vars(function)[NAME] = name
        return function

    return mark


class _Command(TyperCommand):
    """A command whose help ends with an example and with the commands that its texts name, whole and unbroken."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        example = EXAMPLES.get(ctx.command_path.removeprefix(f"{ctx.find_root().info_name} "))
        texts = [self.help, *(getattr(parameter, "help", None) for parameter in self.params)]
        named = dict.fromkeys(QUOTED.findall(" ".join(filter(None, texts))))
        for word, line in [*([("Example", example)] if example else []), *(("See also", line) for line in named)]:
            print(f" {word}: {program()} {line}")


class _Ordered(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        order = list(EXAMPLES)
        return sorted(self.commands, key=lambda name: (order.index(name) if name in order else len(order), name))


def make_app(default: Callable[..., None]) -> typer.Typer:
    """The command line with every command that is found, also in the module of ``default``.

    ``default`` is called before each command, and alone if none is given. Raises UserError for a name that two of the
    project's functions have.
    """
    app = typer.Typer(
        name=INSTALLED,
        cls=_Ordered,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(default)
    groups, commands = dict[str, typer.Typer](), dict[str, Callable[..., Any]]()
    rooms = [f"{ROOM}.{found.name}" for found in pkgutil.iter_modules(_path(ROOM))]
    modules = map(importlib.import_module, (*rooms, *OTHERS))
    for names in (default.__globals__, *map(vars, modules)):
        groups |= _groups_in(names)
        for name, function in _commands_in(names):
            if (other := commands.setdefault(name, function)) is not function:
                raise UserError(f"command {name!r} already exists, from {other.__module__}: choose another name")
    for point in installed_points(GROUP):
        name, function = _installed(point, {name.partition(" ")[0] for name in commands if name not in groups})
        if name not in groups:  # a name that is taken keeps its meaning
            commands.setdefault(name, function)
    for name, function in commands.items():
        group, _, last = name.rpartition(" ")
        (groups.setdefault(group, typer.Typer(name=group)) if group else app).command(last)(function)
    for group in (app, *groups.values()):
        for found in group.registered_commands:
            found.cls = _Command
    for group in groups.values():
        app.add_typer(group)
    return app


def _path(package: str) -> list[str]:
    return list(importlib.import_module(package).__path__)


def _groups_in(names: Mapping[str, Any]) -> dict[str, typer.Typer]:
    """The groups of commands among a module's names, as ``data = typer.Typer(name="data")``."""
    return {str(value.info.name): value for value in names.values() if isinstance(value, typer.Typer)}


def _commands_in(names: Mapping[str, Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The commands among a module's names that it defines itself, by name."""
    for value in names.values():
        if isinstance(value, FunctionType) and NAME in vars(value) and value.__module__ == names["__name__"]:
            yield vars(value)[NAME], value


def _installed(point: InstalledEntryPoint, taken: Collection[str]) -> tuple[str, Callable[..., Any]]:
    """Name and function of an installed package's command; one that cannot be used says so when it is called, and hurts no other.

    ``taken``: commands that no group may be called like.
    """
    what = f"command {point.name!r} of {point.owner}"
    try:
        function = call_outside_code(point.load, f"{what} cannot be imported")
        if not isinstance(function, FunctionType):
            raise UserError(f"{what} cannot be used: it is of type {type(function).__name__}, not a function")
        name = str(vars(function).get(NAME, point.name))
        words = name.split(" ")
        if len(words) > 2 or not all(map(is_usable_name, words)):
            raise UserError(f"{what} is named {unusable_name(name)}, or two such words for one of a group")
        if len(words) == 2 and words[0] in taken:
            raise UserError(
                f"{what} is named {name!r}, but {words[0]!r} is a command and no group: choose another name"
            )
        call_outside_code(partial(_probe, function), f"{what} cannot be used")
        return name, function
    except UserError as error:
        sentence = str(error)

        def refuse() -> NoReturn:
            raise UserError(sentence)

        refuse.__doc__ = sentence
        return "-".join(point.name.split()), refuse


def _probe(function: Callable[..., Any]) -> None:
    """Raise what typer raises for parameters that it cannot read."""
    alone = typer.Typer()
    alone.command()(function)
    typer.main.get_command(alone)
