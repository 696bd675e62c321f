"""One method's official training step, ours and the bare step, timed in turns in one process; run by ``step_times.py``.

The official loop drives: it asks for a batch, the others take their steps, the clock starts, and stops when it asks again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smope_bench.harness.registry.registry import open_registries
from smope_bench.harness.timing.claims.step import TimedStep, bare_step, method_step
from smope_bench.harness.timing.measure import synchronise, timed
from smope_bench.harness.timing.records import ratios, spread
from tests.fidelity.ledger import revision  # pyright: ignore[reportMissingImports]
from tests.fidelity.official_loops import (  # pyright: ignore[reportMissingImports]
    OFFICIAL,
    SIZE,
    Loop,
    OfficialStep,
)

WARM_UPS = 1


class Turns:
    """A loader of one batch, given as often as there are warm-ups and repeats; the other steps are taken in between.

    ``seconds``: of each candidate, the official loop under ``official``. Gives nothing to a second pass over it.
    """

    def __init__(
        self, batch: tuple[Any, ...], others: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
    ) -> None:
        self.device = device
        self.batch, self.others, self.repeats = batch, others, repeats
        self.seconds: dict[str, list[float]] = {name: [] for name in ("official", *others)}
        self.is_spent = False

    def __len__(self) -> int:
        return WARM_UPS + self.repeats

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if self.is_spent:
            return
        self.is_spent = True
        for repeat in range(-WARM_UPS, self.repeats):
            taken = {name: timed(step, self.device) for name, step in self.others.items()}
            started = time.perf_counter()
            yield self.batch
            synchronise(self.device)
            taken["official"] = time.perf_counter() - started
            for name, seconds in taken.items():
                if repeat >= 0:
                    self.seconds[name].append(seconds)


def compare(root: Path, name: str, precision: str, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """A row of the report; RuntimeError where the two sides do not train the same."""
    official = OFFICIAL[name]
    images = torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    labels = (SIZE + torch.arange(batch) % SIZE).to(device)
    our, bare = _our_steps(name, precision, images)
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        loop = stack.enter_context(official.enter(root / official.repository, images.cpu()))
        loop.network.to(device)
        passes: list[int] = []
        loop.patch_embed.register_forward_hook(lambda *_: passes.append(1))
        steps = {"ours": _in_precision(our.take, precision, device), "bare": bare}
        turns = Turns((images, labels, torch.ones(batch, device=device))[: loop.width], steps, repeats, device)
        loop.run(turns)
    counts = {
        "passes": len(passes) / len(turns),
        "trained": sum(p.numel() for p in _trained(loop)),
        "stray_gradients": _strays(loop),
        "our_passes": 1 + our.queries,
        "our_trained": our.trained,
    }
    _check(name, official, loop, counts, len(turns))
    return {"spreads": _measures(turns.seconds), "counts": counts, "note": _note(root, official, our.phase)}


def _our_steps(name: str, precision: str, images: Tensor) -> tuple[TimedStep, Callable[[], None]]:
    """Ours in the precision asked for, and the bare step, like the official one always in fp32, on weights of its own."""
    registries = open_registries(())
    random = registries.backbones.load("random")
    vit = random.load().to(images.device)
    if precision == "bf16":
        vit.keep_products_in(torch.bfloat16)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        step = method_step(registries.methods.load(name), name, vit, images)
    if step is None:
        raise RuntimeError(f"{name} takes no training step")
    return step, bare_step(random.load().to(images.device), images)


def _in_precision(take: Callable[[], None], precision: str, device: torch.device) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            take()

    return step


def _trained(loop: Loop) -> list[nn.Parameter]:
    return [parameter for group in loop.optimizer().param_groups for parameter in group["params"]]


def _strays(loop: Loop) -> int:
    """Numbers whose gradients the official step computes and keeps although no optimiser holds them."""
    held = {id(parameter) for parameter in _trained(loop)}
    return sum(p.numel() for p in loop.network.parameters() if p.grad is not None and id(p) not in held)


def _check(name: str, official: OfficialStep, loop: Loop, counts: Mapping[str, float], steps: int) -> None:
    losses = [float(loss) for loss in loop.losses]
    if len(losses) != steps or not all(map(math.isfinite, losses)):
        raise RuntimeError(f"{name}: {steps} official steps gave the losses {losses}")
    if counts["trained"] - counts["our_trained"] != official.surplus:
        raise RuntimeError(
            f"{name}: the official optimiser holds {counts['trained']} parameters, ours {counts['our_trained']};"
            f" the documented difference is {official.surplus}"
        )


def _measures(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    official, ours, bare = (seconds[side] for side in ("official", "ours", "bare"))
    found = {
        "official_to_ours": ratios(official, ours),
        "official_to_bare": ratios(official, bare),
        "ours_to_bare": ratios(ours, bare),
        "official_seconds": spread(official),
        "our_seconds": spread(ours),
        "bare_seconds": spread(bare),
    }
    return {measure: asdict(each) for measure, each in found.items()}


def _note(root: Path, official: OfficialStep, phase: str) -> str:
    """What is in the official step, and what differs in what is trained."""
    where = f"{official.repository} {revision(root / official.repository)}, {official.loop}; our phase {phase!r}."
    surplus = f" Its optimiser holds {official.surplus} parameters more: {official.why}." if official.surplus else ""
    return f"{where} {official.note}{surplus}"


def main() -> None:
    """Print the row as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.manual_seed(0)
    sizes = (options.precision, options.batch, options.repeats, options.device)
    print(json.dumps(compare(options.official, options.name, *sizes)))


if __name__ == "__main__":
    main()
