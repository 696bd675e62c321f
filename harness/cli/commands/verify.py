"""The command ``verify``: every record and every file that a record names is read and compared with its hash."""

from __future__ import annotations

import sys

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.errors import UserError
from smope_bench.harness.text import plain, whole_commands

DAMAGED = 1


@command("verify")
def verify(results: opt.Results = opt.RESULTS) -> None:
    """Read every record of a results folder and every file that one names, check their hashes, and make the index anew."""
    from smope_bench.harness.console import counted
    from smope_bench.harness.records.index import IndexedStore
    from smope_bench.harness.records.record import Broken

    if not results.is_dir():
        raise UserError(f"--results {str(results)!r} is not a folder; name a results folder")
    records, damaged = 0, 0
    with IndexedStore(results, afresh=True) as store:
        for run_id in store.published():
            records += 1
            found = store.load(run_id)
            if isinstance(found, Broken):
                faults = [whole_commands(found.reason, results=results)]
            elif found is None:
                faults = [f"the record of {run_id} is a link that leads nowhere"]
            else:
                names = store.damaged_files(found)
                faults = [f"{name} of {run_id} is missing or was changed after it was written" for name in names]
            damaged += bool(faults)
            for fault in faults:
                print(f"failed: {plain(fault)}", file=sys.stderr)
            if faults:
                print(f"{run_id}: {store.remedy(run_id)}")
    print(f"{counted(records, 'record')} and the files that they name were read: {damaged} damaged.")
    raise typer.Exit(DAMAGED if damaged else 0)
