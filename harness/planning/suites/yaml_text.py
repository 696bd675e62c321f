"""A YAML file with the line of each of its values: reading, and writing one value a line.

Read as YAML 1.2 reads it: ``no``, ``off`` and ``010`` are text, ``1e3`` is a number. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from smope_bench.harness.errors import UserError
from smope_bench.harness.text import plain, shell_command

MOST_NODES = 20_000
"""Values of a file with every alias written out."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Place = tuple[object, ...]


class YamlFile:
    """The plain values of a file and the line of each place in it, such as ``("rows", 2, "method")``.

    Raises UserError naming the file, the line where one is known, and the remedy: for text that is not YAML in UTF-8,
    keys that are not text or occur twice, and aliases that would make more than ``MOST_NODES`` values.
    """

    def __init__(self, file: Path, data: bytes) -> None:
        self.file = file
        self.lines: dict[Place, int] = {}
        self.values = self._parsed(data)

    def fail(self, sentence: str, *where: object) -> NoReturn:
        """Raise UserError for what stands at a place in the file, or for the file as a whole."""
        places = (where[:length] for length in range(len(where), 0, -1))
        line = next((self.lines[place] for place in places if place in self.lines), None)
        self.fail_at(sentence, line)

    def fail_at(self, sentence: str, line: int | None) -> NoReturn:
        """Raise UserError for a line of the file, or for the file as a whole."""
        raise UserError(f"{str(self.file)!r}{f', line {line}' if line else ''}: {plain(sentence)}")

    def _parsed(self, data: bytes) -> Any:
        if b"\0" in data:
            self.fail("this is not a text file; a suite is YAML in UTF-8")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            self.fail_at("this is not UTF-8; save it with that encoding", line)
        loader = _Loader(text) if text.isprintable() or not _CONTROL.search(text) else None
        if loader is None:
            self.fail("this is not a text file: it has control characters; a suite is YAML in UTF-8")
        try:
            node = loader.get_single_node()
            if node is None:
                self.fail(
                    f"the file is empty; write a suite with: {shell_command('suite', 'table1', '--out', 'my.yaml')}"
                )
            if not isinstance(node, yaml.MappingNode):
                self.fail_at(
                    "a suite's file holds KEY: VALUE lines, such as rows and columns", node.start_mark.line + 1
                )
            self._require_small(node)
            self.lines = dict(self._walk(node, ()))
            return loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = f"{error.context or ''} {error.problem or ''}".strip()
            remedy = (
                "indent with spaces, not tabs"
                if "\\t" in said
                else "look for a missing quote, bracket, colon or indent"
            )
            self.fail_at(f"this is not YAML ({said}); {remedy}", mark.line + 1 if mark else None)
        except (yaml.YAMLError, ValueError) as error:
            self.fail(f"this is not YAML ({error})")
        except RecursionError:
            self.fail("values are nested too deeply; a suite needs a few levels")

    def _require_small(self, top: yaml.Node) -> None:
        """Refuse a file whose aliases, written out, would be very many values, or that holds itself."""
        sizes: dict[int, int] = {}

        def size(node: yaml.Node, above: frozenset[int]) -> int:
            if id(node) in above:
                self.fail_at("an alias stands inside what it names; write the values out", node.start_mark.line + 1)
            if id(node) not in sizes:
                sizes[id(node)] = 1 + sum(size(inner, above | {id(node)}) for inner in _inner(node))
            return sizes[id(node)]

        if (found := size(top, frozenset())) > MOST_NODES:
            self.fail(
                f"the file has {min(found, 10**12):,} values with its aliases written out; a suite has at most {MOST_NODES:,}"
            )

    def _walk(self, node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
        """The line of each place; refuses keys that are not text or occur twice."""
        yield place, node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            for number, one in enumerate(node.value):
                yield from self._walk(one, (*place, number))
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                    shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "it"
                    self.fail_at(f"a key must be text; put {shown} in quotes", line)
                if key.value in seen:
                    self.fail_at(
                        f"{key.value!r} is written twice here, first in line {seen[key.value]}; keep one", line
                    )
                seen[key.value] = line
                yield from self._walk(value, (*place, key.value))
                yield (*place, key.value), line


class _Loader(yaml.SafeLoader):
    """Plain data with the types of YAML 1.2: of 1.1, ``no`` is false, ``010`` is 8, ``12:30`` is 750 and ``1e3`` is text."""


_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", re.compile(r"(?:null|Null|NULL|~|)\Z"), ["n", "N", "~", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would read as something else than text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    return yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    ).strip()


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []
