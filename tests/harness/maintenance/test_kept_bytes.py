"""What autograd keeps of SMoPE's step on ViT-B/16, by kind of block, extrapolated from four blocks to twelve."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from smope_bench.harness.maintenance.kept_bytes import PLANS, kept_mib
from smope_bench.harness.provenance import PROJECT_ROOT
from smope_bench.methods.common.backbone.memory_plan import MemoryPlan
from smope_bench.methods.common.backbone.vit import PromptedViT
from smope_bench.methods.smope import SMoPE

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the pretend device stands for a GPU where there is none"
)

BUDGET = {
    ("fp32", "all at once"): (3.5, 5.81, 5.81, 1.8),
    ("fp32", "hidden layers recomputed"): (1.2, 3.5, 3.5, 1.8),
    ("bf16", "all at once"): (2.1, 3.5, 3.5, 1.2),
    ("bf16", "hidden layers recomputed"): (0.9, 2.4, 2.4, 1.2),
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


def narrow_in_depth(precision: str) -> PromptedViT:
    """Four blocks of ViT-B/16."""
    vit = PromptedViT(VisionTransformer(depth=4, num_classes=0, weight_init="skip"))
    if precision == "bf16":
        vit.keep_products_in(torch.bfloat16)
    return vit
