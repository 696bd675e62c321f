"""NoRGa beside its official implementation: ``python -m tests.fidelity.compare_norga --official DIR``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from smope_bench.methods.norga import NoRGa
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]
from tests.fidelity.moe_promptcl import (  # pyright: ignore[reportMissingImports]
    DEVIATIONS,
    SETTING,
    Official,
)
from tests.fidelity.moe_promptcl_steps import compare_steps  # pyright: ignore[reportMissingImports]
from tests.fidelity.moe_promptcl_tasks import compare_tasks  # pyright: ignore[reportMissingImports]

GATE = (
    "Gated logits",
    "carried to the fused attention kernel by extra channels instead of an explicit attention matrix; the same products",
)


def compare(official: Path) -> Entry:
    """The entry of the ledger."""
    root = official / "MoE_PromptCL"
    entry = Entry(
        method="norga",
        title="NoRGa",
        repository="https://github.com/Minhchuyentoancbn/MoE_PromptCL",
        revision=revision(root),
        setting=SETTING + " The gate's activation is the sigmoid.",
        deviations=[*DEVIATIONS, GATE],
    )
    with contextlib.redirect_stdout(sys.stderr):
        modules = ("norga_prompt_vision_transformer", "norga_tii_engine", "norga_prompt_engine")
        code = Official(root, *modules, gate_act="sigmoid")
        for title, retrieval in (("corrected", "corrected"), ("published leak", "published_leak")):
            compare_steps(entry, title, code, NoRGa, retrieval)
            compare_tasks(entry, title, code, NoRGa, retrieval)
    return entry


if __name__ == "__main__":
    run_adapter(compare)
