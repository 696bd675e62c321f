"""The figures of the SMoPE paper: settings that are varied, and observations beside accuracies."""

from __future__ import annotations

from dataclasses import replace

from smope_bench.benchmarks.suites.schema import CUB_10, GLYPHS_10, SMOPE, Column, Drawing, Row, Suite, imagenet_r
from smope_bench.benchmarks.suites.tables import AGGREGATED, PER_TOKEN

ALPHAS = (5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3)
LENGTHS = (5, 15, 25, 35, 45)
CHOICES = (1, 3, 5, 7, 10)


def _epsilons(*values: float) -> tuple[Row, ...]:
    return tuple(Row(f"epsilon {value:.1f}", "smope", {"epsilon": value}) for value in values)


def _held_out(column: Column) -> Column:
    """The column with a fifth of its training images held out, as the papers do for validation."""
    return replace(column, label=f"{column.label}, 20 % held out", config={**column.config, "holdout": 0.2})


FIGURES: tuple[Suite, ...] = (
    Suite(
        name="fig2",
        title="Figure 2: how often experts are chosen",
        summary="use of each expert of a head after all tasks on CUB-200 at epsilon 0, 0.4 and 1; tiny form on glyphs",
        rows=_epsilons(0.0, 0.4, 1.0),
        tiny=(GLYPHS_10,),
        full=(CUB_10,),
        observe=("activation_counts",),
        drawings=(Drawing("expert_use"),),
    ),
    Suite(
        name="fig3",
        title="Figure 3: prompt length and number of chosen experts",
        summary="N_p x K on CUB-200, tiny form on glyphs; the paper shows its grid as a picture only, these values are ours",
        rows=tuple(
            Row(f"N_p {length}, K {top_k}", "smope", {"experts": length, "top_k": top_k})
            for length in LENGTHS
            for top_k in CHOICES
            if top_k <= length
        ),
        tiny=(GLYPHS_10,),
        full=(CUB_10,),
        drawings=(Drawing("heat_map", "experts", "top_k", "prompt length Nₚ", "chosen experts K"),),
    ),
    Suite(
        name="fig4",
        title="Figure 4: distribution of expert scores",
        summary="scores of the experts in each head of the first block on CUB-200; tiny form on glyphs",
        rows=(SMOPE,),
        tiny=(GLYPHS_10,),
        full=(CUB_10,),
        observe=("expert_scores",),
        drawings=(Drawing("score_boxes"),),
    ),
    Suite(
        name="fig5",
        title="Figure 5: the handicap epsilon",
        summary="epsilon from 0 to 1 in tenths on ImageNet-R; tiny form on glyphs",
        rows=_epsilons(*(tenth / 10 for tenth in range(11))),
        tiny=(GLYPHS_10,),
        full=(imagenet_r(10),),
        drawings=(Drawing("curve", "epsilon", x_label="handicap ε"),),
    ),
    Suite(
        name="fig6",
        title="Figure 6: how often experts are chosen, head by head",
        summary="the runs of Figure 2, several heads of them",
        rows=_epsilons(0.0, 0.4, 1.0),
        tiny=(GLYPHS_10,),
        full=(CUB_10,),
        observe=("activation_counts",),
        drawings=(Drawing("expert_use", y="heads"),),
    ),
    Suite(
        name="fig7",
        title="Figure 7: weights of the two losses",
        summary="router x prototype weight over the published grid of six values each on CUB-200; tiny form on glyphs",
        rows=tuple(
            Row(f"router {router:g}, prototype {proto:g}", "smope", {"alpha_router": router, "alpha_proto": proto})
            for router in ALPHAS
            for proto in ALPHAS
        ),
        tiny=(GLYPHS_10,),
        full=(CUB_10,),
        drawings=(Drawing("heat_map", "alpha_router", "alpha_proto", "router weight", "prototype weight"),),
    ),
    Suite(
        name="fig8",
        title="Figure 8: prefix keys among the inputs",
        summary="keys of a head's experts and the inputs of that head on CUB-200, for PCA; tiny form on glyphs",
        rows=(SMOPE,),
        tiny=(GLYPHS_10,),
        full=(CUB_10,),
        observe=("prefix_keys", "head_inputs"),
        drawings=(Drawing("key_projection"),),
    ),
    Suite(
        name="fig9",
        title="Figure 9: validation loss with and without score aggregation",
        summary="one prompt on ImageNet-R, a fifth held out, loss through the training of each task; tiny form on glyphs",
        rows=(
            Row("Per-token scores", "smope", PER_TOKEN),
            Row("Aggregated scores", "smope", AGGREGATED),
        ),
        tiny=(_held_out(GLYPHS_10),),
        full=(_held_out(imagenet_r(10)),),
        observe=("validation_loss",),
        drawings=(Drawing("validation_loss"),),
    ),
)
