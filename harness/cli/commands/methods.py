"""The commands for authors of a method: ``new-method`` and ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.errors import UserError
from smope_bench.harness.text import shell_command

NewName = Annotated[str, typer.Argument(metavar="NAME", help="The method's name, and its file's: my_prompt.")]
NewOut = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where both files are written.")]
BackboneSettings = Annotated[
    list[str] | None,
    opt.what("--set", metavar="backbone.FIELD=VALUE", help="Change a setting of the backbone. Repeatable."),
]
CHECK_FAILED = 1


@command("new-method")
def new_method(name: NewName, out: NewOut = Path()) -> None:
    """Write NAME.py, a working method of about 20 lines, and test_NAME.py, which puts it through 'check'."""
    from smope_bench.harness.registry.scaffold import new_method as written

    plugin, test = written(name, out)
    print(f"wrote {plugin} and {test}; next:")
    print(f"  {shell_command('check', str(plugin))}")
    print(f"  {shell_command('run', 'smoke', '--plugin', str(plugin), '--methods', name, '--seeds', '0')}")


@command("check")
def check(
    target: opt.CheckTarget,
    backbone: opt.Backbone = None,
    settings: BackboneSettings = None,
    plugin: opt.Plugins = None,
    data: opt.Data = opt.DATA,
) -> None:
    """Put a method through the conformance kit: leaks, gradients, checkpoints, determinism, precision, cost."""
    from smope_bench.harness.conformance.check import check_target, failed
    from smope_bench.harness.console import make_console
    from smope_bench.harness.planning.settings import parse_setting
    from smope_bench.harness.text import plain

    parsed = [parse_setting(text) for text in settings or ()]
    checked, console = check_target(target, backbone, data, parsed, plugin or ()), make_console()
    if not checked:
        raise UserError(f"plugin {target!r} defines no method to check: write a subclass of smope_bench.api.Method.")
    for name, verdicts in checked.items():
        console.print(plain(name), style="bold", markup=False, emoji=False)
        following = [*(verdict.remedy for verdict in verdicts[1:]), ""]
        for verdict, next_remedy in zip(verdicts, following, strict=True):
            mark, style = ("✓", "green") if verdict.passed else ("✗", "red")
            said = f"  {mark} {verdict.name}: {plain(verdict.detail)}"
            console.print(said, style=style, markup=False, emoji=False)
            if verdict.remedy != next_remedy and verdict.remedy:  # several checks may have the same remedy
                console.print(f"    → {verdict.remedy}", markup=False, emoji=False)
        missed = failed(verdicts)
        outcome = f"{len(missed)} of {len(verdicts)} are not met" if missed else f"all {len(verdicts)} are met"
        console.print(f"  {outcome}", markup=False)
    raise typer.Exit(CHECK_FAILED if any(failed(verdicts) for verdicts in checked.values()) else 0)
