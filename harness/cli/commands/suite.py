"""The command ``suite``: a suite as a YAML file of one's own to begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.errors import UserError
from smope_bench.harness.text import shell_command

SuiteName = Annotated[
    str,
    typer.Argument(
        metavar="SUITE",
        help="A suite by name ('list suites'), or a file.",
        autocompletion=opt.suites_that_begin,
    ),
]
SuiteOut = Annotated[
    Path | None, opt.where("--out", metavar="FILE.yaml", help="Where it is written; printed otherwise.")
]


@command("suite")
def suite(name: SuiteName, out: SuiteOut = None) -> None:
    """Write a suite as a YAML file, which plans the same runs and which you may change. docs/suites.md has the format."""
    from smope_bench.benchmarks.disk import refusal
    from smope_bench.benchmarks.suites import SUITES
    from smope_bench.harness.planning.suites.find import find_suite, is_file_name
    from smope_bench.harness.planning.suites.read import ENDINGS, read_suite
    from smope_bench.harness.planning.suites.write import suite_text
    from smope_bench.harness.records.atomic_write import write_atomically

    found = find_suite(name)
    stem = out.stem if out is not None else found.name
    text = suite_text(found, f"my_{stem}" if stem.lower() in {known.lower() for known in SUITES} else stem)
    if out is None:
        print(text, end="")
        return
    if not (is_file_name(str(out)) and out.suffix.lower() in ENDINGS):
        raise UserError(f"--out {str(out)!r}: the name of a suite's file ends in {ENDINGS[0]}")
    try:
        write_atomically(out, text.encode(), exclusive=True)
    except FileExistsError as error:
        raise UserError(f"--out {str(out)!r} exists and is not overwritten; name another file") from error
    except OSError as error:
        raise UserError(f"--out {str(out)!r} cannot be written: {refusal(error, out)}") from error
    try:
        read_suite(out)
    except UserError:
        out.unlink()
        raise
    print(f"written: {out}; run it with: {shell_command('run', str(out))}")
