"""Malformed inputs, drawn from a seed: texts, JSON, plugin files and image folders that no sane user would give."""

from __future__ import annotations

import copy
import json
import random
import struct
import textwrap
import zlib
from pathlib import Path
from typing import Any

DEEP = 100_000
TEXTS = (
    "", " ", "\t", "\n", "a\nb", "\x00", "\x1b[31mred\x1b[0m", "\x9b31m", "../../etc/passwd", "/", "~", ".", "..", "$(touch x)",
    "`id`", "a" * 3000, "é", "中文", "\u202eabc", "\ufeff", "\ud800", "-1", "-0", "0", "1e999", "-1e-999", "NaN", "Infinity",
    "[]", "{}", "[" * DEEP, '{"a":' * DEEP, "[" * 900 + "]" * 900, "null", "true", "0x10", "1_000", "١", "²", "--help", "-h",
    "%s%n", "[bold]x[/]", "[/]", "{{7*7}}", "<script>alert(1)</script>", "=1+1", "1,2", ",", ";", "\r", str(2**64), "9" * 400,
    "9" * 5000, "0-99999999999", "0:", ":0", "0:0:0", "0--1", "1.5", "1e3", '"', "'", "\\", '{"kind": 3}', '{"kind": "x"}',
    '"\\ud800"', "[1, 2", "'; DROP TABLE", "%00", "con", "*", "?", "!", "|", "&&", "a=b=c", "__class__", "__init__.x",
)  # fmt: skip
KEYS = (
    "epochs", "schedule.epochs", "schedule.lr", "schedule", "schedule.", ".epochs", "benchmark.tasks", "benchmark.image_size",
    "benchmark.holdout", "benchmark.path", "benchmark", "tap.epochs", "tap", "linear_probe.tap.enabled", "linear_probe",
    "benchmark.test_fraction", "benchmark.split_seed", "schedule.shape", "schedule.batch_size", "schedule.warmup.x",
    "benchmark.class_order", "benchmark.split", "benchmark.limit", "linear_probe.schedule.lr", "linear_probe.benchmark.tasks",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 0.5, 1e308, "", "x", "\x1b[2J", "../../x", [], [[]], {}, {"a": []}, [None] * 3, "<b>", -0.0, "1",
)  # fmt: skip


def text(draw: random.Random) -> str:
    """One of the awkward texts, or two joined, or random characters."""
    kind = draw.random()
    if kind < 0.7:
        return draw.choice(TEXTS)
    if kind < 0.85:
        return draw.choice(TEXTS) + draw.choice(TEXTS)
    return "".join(chr(draw.choice((draw.randrange(32, 127), draw.randrange(1, 0xD7FF)))) for _ in range(12))


def setting(draw: random.Random) -> str:
    """A ``--set`` text."""
    return text(draw) if draw.random() < 0.2 else f"{draw.choice((*KEYS, text(draw)))}={text(draw)}"


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes cut, flipped, doubled, emptied or replaced."""
    if not data:
        return b"\0"
    at = draw.randrange(len(data))
    return draw.choice(
        (
            data[:at],
            data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :],
            data[at:] + data[:at],
            b"",
            b"\xff\xfe" + data,
            b"[" * DEEP,
            draw.randbytes(200),
            data + data,
            b"null",
            b"[1e999, NaN]",
            data[:at] + b"9" * 5000 + data[at:],
        )
    )


def places_of(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a JSON value, however deep."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        node = stack.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                stack.append(node[key])
    return places


def mutated(value: Any, draw: random.Random) -> Any:
    """JSON with one value somewhere replaced or removed."""
    value = copy.deepcopy(value)
    node, key = draw.choice(places_of(value))
    if draw.random() < 0.25:
        del node[key]
    else:
        node[key] = draw.choice(VALUES)
    return value


def json_bytes(value: Any, draw: random.Random) -> bytes:
    """A JSON file with a wrong value in it, or damaged bytes."""
    if draw.random() < 0.5:
        return json.dumps(mutated(value, draw)).encode()
    return damaged(json.dumps(value).encode(), draw)


METHOD = """
    from smope_bench.methods.common.api import Method, MethodCard

    class Mine(Method):
        name = {name}
        card = {card}
        {more}
"""
CARD = 'MethodCard(title="Mine", summary="m")'
BODIES = (
    "", "def", "import sys\nsys.exit(3)", "import sys\nsys.exit()", "raise SystemExit('x\\ny')", "def f(): f()\nf()",
    "class E(BaseException): pass\nraise E('own')", "1/0", "import no_such_module_anywhere",
    "from smope_bench.methods.common.api import NoSuchThing", "\0",
    "x = '\\ud800'\nraise ValueError(x)", "raise ValueError('\\x1b[2J')",
    "from smope_bench.methods.common.api import Method\nclass A(Method): pass",
    "import torch\nraise torch.OutOfMemoryError('a\\nb')",
    "from smope_bench.methods.common.api import Method\nMethod()", "raise GeneratorExit", "raise Exception", "raise MemoryError",
    "class M(type):\n    def __instancecheck__(c, i): raise RuntimeError('meta')\nclass A(metaclass=M): pass\nx = A()",
    "(" * 300 + ")" * 300, "a" * 100_000, "from smope_bench.harness.errors import UserError\nraise UserError('mine')",
    "class S(str):\n    def __str__(self): raise ValueError\nraise ValueError(S())",
)  # fmt: skip
NAMES = (
    "3", "None", "''", "' '", "'../../escaped'", "'/absolute'", "'a/b'", "'a' * 5000", "'a\\nb'", "'\\x1b[31mred'", "'\\0'",
    "'ncm'", "'smope'", "'schedule'", "'benchmark'", "'中文'", "'\\u202eabc'", "'\\ud800'", "'a.b'", "'a,b'", "'a=b'",
    "'<script>'", "'[bold]'", "b'bytes'", "['list']", "'--help'", "'con'", "'Ncm'", "'{{7*7}}'", "property(lambda s: 'x')",
)  # fmt: skip
CARDS = (
    "None",
    "3",
    "'card'",
    "MethodCard()",
    "MethodCard(title=3, summary=None)",
    "MethodCard(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)",
)
MORE = (
    "", "Config = None", "Config = int", "Config = dict", "observes = 3", "needs_query = 'x'", "leaks = None", "Config = lambda: 0",
    "def __init_subclass__(cls): raise ValueError('no')", "def __init__(self, *a): raise ValueError('\\x1b[2J')",
    "is_closed_form = 1",
    "from pydantic import BaseModel\n        class Config(BaseModel):\n            needed: int",
    "from smope_bench.methods.common.api import MethodConfig\n        class Config(MethodConfig):\n            needed: int",
)  # fmt: skip


def plugin(draw: random.Random) -> bytes:
    """The content of a plugin file."""
    kind = draw.random()
    if kind < 0.4:
        return draw.choice(BODIES).encode(errors="surrogatepass")
    one_odd = {"name": "'mine'", "card": CARD, "more": ""}
    part = draw.choice(("name", "name", "card", "more"))
    one_odd[part] = draw.choice({"name": NAMES, "card": CARDS, "more": MORE}[part])
    source = textwrap.dedent(METHOD.format(**one_odd)).encode()
    return damaged(source, draw) if kind > 0.9 else source


def png(width: int = 8, height: int = 8, grey: int = 100) -> bytes:
    """A grey PNG; sizes in its header are not bounded by what follows."""
    rows = (b"\0" + bytes([grey]) * min(width, 64)) * min(height, 64)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FOLDER_NAMES = (
    "a",
    "b",
    "é",
    "中",
    "x\ny",
    "\x1b[31m",
    "<script>",
    " ",
    "-h",
    "a" * 200,
    "..a",
    "{{7*7}}",
    "=1+1",
    "train",
    "test",
)
CONTENTS = (
    png(),
    png(100_000, 100_000),
    png(0, 0),
    png()[:40],
    b"",
    b"GIF89a",
    b"\xff\xd8\xff",
    b"<svg/>",
    b"not an image",
    png()[::-1],
)


def image_folder(folder: Path, draw: random.Random) -> None:
    """Some classes of some images, with something wrong."""
    folder.mkdir(parents=True)
    for _ in range(draw.randrange(4)):
        inside = folder / draw.choice(FOLDER_NAMES)
        inside.mkdir(exist_ok=True)
        for i in range(draw.randrange(4)):
            (inside / f"{i}.{draw.choice(('png', 'jpg', 'txt', 'gif'))}").write_bytes(draw.choice((png(), *CONTENTS)))
        if draw.random() < 0.2:
            (inside / "link.png").symlink_to(draw.choice(("/etc/passwd", "link.png", "../..", "/dev/zero")))
