"""HiDe-Prompt beside the official single-GPU implementation: ``python -m tests.fidelity.compare_hide_prompt --official DIR``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from smope_bench.methods.hide_prompt import HidePrompt
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]
from tests.fidelity.moe_promptcl import (  # pyright: ignore[reportMissingImports]
    DEVIATIONS,
    SETTING,
    Official,
)
from tests.fidelity.moe_promptcl_steps import compare_steps  # pyright: ignore[reportMissingImports]
from tests.fidelity.moe_promptcl_tasks import compare_tasks  # pyright: ignore[reportMissingImports]


def compare(official: Path) -> Entry:
    """The entry of the ledger."""
    root = official / "MoE_PromptCL"
    entry = Entry(
        method="hide_prompt",
        title="HiDe-Prompt",
        repository="https://github.com/Minhchuyentoancbn/MoE_PromptCL (its single-GPU HiDe-Prompt)",
        revision=revision(root),
        setting=SETTING,
        deviations=DEVIATIONS,
    )
    with contextlib.redirect_stdout(sys.stderr):
        modules = ("hide_prompt_vision_transformer", "hide_tii_engine", "hide_promtp_wtp_and_tap_engine")
        code = Official(root, *modules)
        for title, retrieval in (("corrected", "corrected"), ("published leak", "published_leak")):
            compare_steps(entry, title, code, HidePrompt, retrieval)
            compare_tasks(entry, title, code, HidePrompt, retrieval)
    return entry


if __name__ == "__main__":
    run_adapter(compare)
