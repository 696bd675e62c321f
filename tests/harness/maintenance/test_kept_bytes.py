"""What autograd keeps of a step on ViT-B/16, SMoPE's above all, by kind of block, extrapolated from four blocks to twelve."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from smope_bench.harness.maintenance.kept_bytes import PLANS, kept_mib
from smope_bench.harness.provenance import PROJECT_ROOT
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.hide_prompt import HidePrompt
from smope_bench.methods.smope import SMoPE

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the pretend device stands for a GPU where there is none"
)

BUDGET = {
    ("fp32", "all at once"): (3.5, 5.81, 5.81, 1.8),
    ("fp32", "hidden layers recomputed"): (1.2, 3.5, 3.5, 1.8),
    ("bf16", "all at once"): (1.8, 2.92, 2.92, 0.9),
    ("bf16", "hidden layers recomputed"): (0.9, 2.05, 2.05, 0.9),
}
"""Most MiB an image of the first block, a prompted one, one without prompts, and the last, of which one token is read."""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_keeps_no_more_than_its_budget(precision: str) -> None:
    totals: list[float] = []
    for plan in PLANS:
        kept = kept_mib(SMoPE, {"prompt_blocks": 2}, narrow_in_depth(precision), precision, plan)
        budget = BUDGET.get((precision, plan.words), (0.65,) * 4)
        assert all(kept.get(block, 0.0) <= most for block, most in enumerate(budget)), (plan.words, kept)
        totals.append(sum(kept.values()) + 4 * (kept[1] + kept[2]))
    page = (PROJECT_ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert f"| {precision} | {' | '.join(f'{total:.1f}' for total in totals)} |" in page
    assert PLANS[0] == MemoryPlan()


@pytest.mark.parametrize(
    ("method", "config"), [(HidePrompt, {"prompt_blocks": 2}), (SMoPE, {"prompt_blocks": 2, "score_agg": "per_token"})]
)
def test_prefixes_beside_the_tokens_keep_no_packed_heads(method: type[Method], config: dict[str, Any]) -> None:
    """Of a prompted block: queries, keys and values with the prefixes before them, not the projection as well (1.15 MiB)."""
    kept = kept_mib(method, config, narrow_in_depth("fp32"), "fp32", MemoryPlan())
    assert kept[0] <= 5.4 and kept[1] <= 6.0, kept


def narrow_in_depth(precision: str) -> PromptedViT:
    """Four blocks of ViT-B/16."""
    vit = PromptedViT(VisionTransformer(depth=4, num_classes=0, weight_init="skip"))
    if precision == "bf16":
        vit.keep_products_in(torch.bfloat16)
    return vit
