"""Our training steps beside those of the official code: ViT-B/16, 224 px, random weights, second of ten tasks, on the CPU.

``python tests/fidelity/step_times.py --official DIR [--methods A,B] [--precision fp32|bf16] [--batch 4] [--repeats 5]
[--json | --out FILE]`` needs clones of the official repositories in DIR, as the ledger does. The official step is always fp32,
as published, and so is the bare step; ours is in the precision asked for. Every method runs in a process of its own, one after
another, because the official modules share their names; within it official, ours and bare take turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ledger import ADAPTERS, ROOT, RUN_AS_MODULE  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(ROOT))  # a script's own folder is there alone

from smope_bench.harness.timing import records
from smope_bench.harness.timing.records import Code, Measurement, Row, Spread, make_measurement, make_row

METHODS = (
    "smope", "l2p++", "deep_l2p++", "dualprompt", "coda_prompt", "ovor", "vq_prompt", "hide_prompt", "norga",
)  # fmt: skip
HEADING = "| Method | official / ours | official / bare | ours / bare | official s | passes | gradients nobody uses |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the methods and print or write the report."""
    options = _options(arguments)
    if options.out:
        records.require_writable(options.out)
    rows, code = list[Row](), records.code_here()
    for name in options.methods:
        rows.append(_row(name, options))
        if options.out:  # after every method, so that a failure of the next one loses nothing
            records.write(options.out, _kept(rows, options, code))
    kept = _kept(rows, options, code)
    print(kept.model_dump_json(indent=2, by_alias=True) if options.json else _table(kept))


def _kept(rows: list[Row], options: argparse.Namespace, code: Code) -> Measurement:
    """A measurement in the form that bench commands keep, without this machine's folders."""
    asked = {"precision": options.precision, "batch": options.batch, "repeats": options.repeats}
    chosen = " ".join(f"--{name} {value}" for name, value in asked.items())
    command = f"tests/fidelity/step_times.py --official DIR --methods {','.join(options.methods)} {chosen}"
    return make_measurement("official", command, records.conditions_here(options.device, **asked), rows, code)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/fidelity/step_times.py", description=__doc__)
    parser.add_argument("--official", type=Path, required=True, help="folder with clones of the official repositories")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; default: all nine")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of our step")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="after one warm-up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    options.methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    unknown = sorted(set(options.methods) - set(METHODS))
    if unknown or not options.methods:
        parser.error(
            f"--methods: {', '.join(unknown) or 'nothing'} given; there is official code for {', '.join(METHODS)}"
        )
    if not options.official.is_dir():
        parser.error(f"--official {options.official} is no folder; name the one with the clones of the repositories")
    if options.batch < 1 or options.repeats < 1:
        parser.error(f"--batch {options.batch} and --repeats {options.repeats} must be at least 1")
    return options


def _row(name: str, options: argparse.Namespace) -> Row:
    """One method in a fresh process; stops with its message where it fails."""
    place = [str(ADAPTERS.parent), str(ROOT), "tests.fidelity.step_pairs", name]
    chosen = ["--official", str(options.official.resolve()), "--precision", options.precision]
    sizes = ["--batch", str(options.batch), "--repeats", str(options.repeats), "--device", options.device]
    command = [sys.executable, "-c", RUN_AS_MODULE, *place, *chosen, *sizes]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if found.returncode:
        raise SystemExit(f"{name}: {found.stderr.strip()}")
    row = json.loads(found.stdout.strip().splitlines()[-1])
    spreads = {measure: Spread(**values) for measure, values in row["spreads"].items()}
    kept = make_row(name, row["note"], **spreads, **row["counts"])
    print(f"{name}: {_cell(kept, 'official_to_ours')} times our step", file=sys.stderr, flush=True)
    return kept


def _table(kept: Measurement) -> str:
    """The measurement as Markdown."""
    lines = [HEADING, "|---|--:|--:|--:|--:|--:|--:|"]
    for row in kept.rows:
        ratios = [_cell(row, measure) for measure in ("official_to_ours", "official_to_bare", "ours_to_bare")]
        strays, passes = (row.measures[count].median for count in ("stray_gradients", "passes"))
        seconds = f"{row.measures['official_seconds'].median:.2f}"
        lines.append(f"| {' | '.join([row.name, *ratios, seconds, f'{passes:g}', f'{strays / 1e6:.1f} M'])} |")
    facts = ", ".join(f"{name} {value}" for name, value in kept.conditions.items())
    return "\n".join([*lines, "", f"{facts}; official and bare steps always in fp32."])


def _cell(row: Row, measure: str) -> str:
    found = row.measures[measure]
    return f"{found.median:.2f} ({found.least:.2f} to {found.most:.2f})"


if __name__ == "__main__":
    main()
