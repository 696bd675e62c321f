"""Recipes of the tiny backbone: chosen on held-out training data, every method with the same small budget.

``docs/tiny-recipes.md`` has the search and its log. ``tiny_random``, ``fashion_mnist``, ``glyph_domains`` and
``small_sets`` use the same ones, untuned. Those of ``emoji_r`` with
``tiny_colour`` were searched again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from smope_bench.methods.recipes.cpg import STEPS
from smope_bench.methods.recipes.schema import ANY, TrainingRecipe, inferred

TINY_SOURCE = "docs/tiny-recipes.md"


def _tiny(
    method: str, benchmark: str, schedule: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> TrainingRecipe:
    return TrainingRecipe(method, benchmark, "tiny", TINY_SOURCE, schedule, config or {})


DIGITS: dict[str, Any] = {"batch_size": 32, "epochs": 6, "shape": "coswm"}
GLYPHS: dict[str, Any] = {"batch_size": 32, "epochs": 2, "shape": "coswm"}
SMALL_TAP: dict[str, Any] = {"samples": 32, "epochs": 20, "lr": 0.01}
NO_TAP: dict[str, Any] = SMALL_TAP | {"enabled": False}
SMALL_SGD_TAP: dict[str, Any] = {"samples": 32, "epochs": 20, "lr": 0.05}
CLIPPED: dict[str, Any] = {"grad_clip": 1.0, "drop_last": False, "shape": "epoch_cosine"}
BY_EPOCH: dict[str, Any] = {"shape": "cosine"}
KEEP_LAST: dict[str, Any] = {"drop_last": False}
EASE_SGD: dict[str, Any] = {
    "lr": 0.025,
    "optimizer": "sgd",
    "shape": "epoch_cosine",
    "epoch_lag": 0,
    "min_lr": 0.0,
    "weight_decay": 5e-4,
    "drop_last": False,
}
STEADY_SGD: dict[str, Any] = {"shape": "constant", "optimizer": "sgd"} | KEEP_LAST
ADAM: dict[str, Any] = BY_EPOCH | KEEP_LAST | {"optimizer": "adam"}
FALLING: dict[str, Any] = STEPS | {"shape": "milestones"}
"""CPG's Adam, whose rate falls after 40 and 70 % of the epochs."""


def _inferring(epochs: int) -> dict[str, Any]:
    """Settings of a method with a task-inference network: as many epochs for it as for the prompts."""
    inference = {"epochs": epochs, "lr": 0.005, "tap": SMALL_SGD_TAP}
    return {"tap": SMALL_SGD_TAP, "task_inference": inference}


SEARCHED: tuple[TrainingRecipe, ...] = (
    _tiny("l2p++", "digits", DIGITS | BY_EPOCH | {"lr": 0.015}, {"prompt_init": 0.2}),
    _tiny("deep_l2p++", "digits", DIGITS | BY_EPOCH | {"lr": 0.045}, {"prompt_lr_mult": 0.2}),
    _tiny("dualprompt", "digits", DIGITS | BY_EPOCH | {"lr": 0.015}),
    _tiny("coda_prompt", "digits", DIGITS | BY_EPOCH | {"lr": 0.015}),
    _tiny("ovor", "digits", DIGITS | BY_EPOCH | KEEP_LAST | {"lr": 0.015}),
    _tiny("hide_prompt", "digits", DIGITS | CLIPPED | {"lr": 0.015}, {"head_lr_mult": 1.0} | _inferring(6)),
    _tiny("norga", "digits", DIGITS | CLIPPED | {"lr": 0.015}, _inferring(6)),
    _tiny("vq_prompt", "digits", DIGITS | {"lr": 0.005}, {"tap": SMALL_TAP}),
    _tiny("hash_prompt", "digits", DIGITS | CLIPPED | {"lr": 0.015}, {"head_lr_mult": 1.0} | _inferring(6)),
    _tiny("smope", "digits", DIGITS | {"lr": 0.0015}, {"prompt_init": 0.2, "tap": SMALL_TAP}),
    _tiny("cpg", "digits", DIGITS | FALLING | {"lr": 0.045, "milestones": [2, 4]}),
    _tiny("one_prompt", "digits", DIGITS | {"lr": 0.015}, {"tap": NO_TAP}),
    _tiny("linear_probe", "digits", DIGITS | {"lr": 0.015}, {"tap": NO_TAP}),
    _tiny("ranpac", "digits", DIGITS | {"lr": 0.005}, {"prompt_init": 0.2}),
    _tiny("inflora", "digits", DIGITS | ADAM | {"lr": 0.015}, {"threshold": 0.98}),
    _tiny("ease", "digits", DIGITS | EASE_SGD),
    _tiny("sd_lora", "digits", DIGITS | STEADY_SGD | {"lr": 0.005}),
    _tiny("joint_head", "digits", DIGITS | {"lr": 0.005}),
    _tiny("joint", "digits", DIGITS | {"lr": 0.005}, {"prompt_init": 0.2}),
    _tiny("l2p++", "glyphs", GLYPHS | BY_EPOCH | {"lr": 0.015}, {"prompt_init": 0.2}),
    _tiny("deep_l2p++", "glyphs", GLYPHS | BY_EPOCH | {"lr": 0.015}),
    _tiny("dualprompt", "glyphs", GLYPHS | BY_EPOCH | {"lr": 0.015}),
    _tiny("coda_prompt", "glyphs", GLYPHS | BY_EPOCH | {"lr": 0.015}),
    _tiny("ovor", "glyphs", GLYPHS | BY_EPOCH | KEEP_LAST | {"lr": 0.015}, {"prompt_init": 0.2}),
    _tiny("hide_prompt", "glyphs", GLYPHS | CLIPPED | {"lr": 0.045}, _inferring(2)),
    _tiny("norga", "glyphs", GLYPHS | CLIPPED | {"lr": 0.045}, _inferring(2)),
    _tiny("vq_prompt", "glyphs", GLYPHS | {"lr": 0.015}, {"tap": SMALL_TAP}),
    _tiny("hash_prompt", "glyphs", GLYPHS | CLIPPED | {"lr": 0.045}, {"head_lr_mult": 1.0} | _inferring(2)),
    _tiny("smope", "glyphs", GLYPHS | {"lr": 0.015}, {"prompt_init": 0.2, "tap": SMALL_TAP}),
    _tiny("cpg", "glyphs", GLYPHS | FALLING | {"lr": 0.135, "milestones": [1]}),
    _tiny("one_prompt", "glyphs", GLYPHS | {"lr": 0.015}, {"prompt_init": 0.2, "tap": NO_TAP}),
    _tiny("linear_probe", "glyphs", GLYPHS | {"lr": 0.015}, {"tap": NO_TAP}),
    _tiny("ranpac", "glyphs", GLYPHS | {"lr": 0.045}, {"prompt_init": 0.2}),
    _tiny("inflora", "glyphs", GLYPHS | ADAM | {"lr": 0.015}, {"threshold": 0.98}),
    _tiny("ease", "glyphs", GLYPHS | EASE_SGD | {"lr": 0.045}, {"proxy_scale": 20.0}),
    _tiny("sd_lora", "glyphs", GLYPHS | STEADY_SGD | {"lr": 0.045}),
    _tiny("joint_head", "glyphs", GLYPHS | {"lr": 0.015, "beta1": 0.0}),
    _tiny("joint", "glyphs", GLYPHS | {"lr": 0.015}, {"prompt_init": 0.2}),
    _tiny("ncm", ANY, {"batch_size": 128}),
    _tiny("ridge", ANY, {"batch_size": 128}),
)

WHOLE: dict[str, Any] = {"image_size": 32, "augment": {"kind": "none"}, "test_resize": None}


def _on_random_weights() -> list[TrainingRecipe]:
    """For the second weights of the tiny Table 2: the recipes of ``tiny``, so that only the weights differ."""
    return inferred(SEARCHED, "as with the weights of tiny, untuned", backbone="tiny_random")


def _on_fashion() -> list[TrainingRecipe]:
    """As on digits, but one epoch: there are 40 times as many images."""
    found: list[TrainingRecipe] = []
    for recipe in SEARCHED:
        if recipe.benchmark not in ("digits", ANY):
            continue
        config = dict(recipe.config)
        if "task_inference" in config:
            config["task_inference"] = config["task_inference"] | {"epochs": 1}
        once = replace(recipe, schedule={**recipe.schedule, "epochs": 1}, config=config)
        found += inferred([once], "as on digits, one epoch, untuned", benchmark="fashion_mnist", data=WHOLE)
    return found


def _on_glyph_domains() -> list[TrainingRecipe]:
    """As on glyphs, whose tasks have as many images."""
    own = [recipe for recipe in SEARCHED if recipe.benchmark == "glyphs"]
    return inferred(own, "as on glyphs, untuned", benchmark="glyph_domains")


def _on_small_sets() -> list[TrainingRecipe]:
    """As on digits, which are one of the sets."""
    own = [recipe for recipe in SEARCHED if recipe.benchmark == "digits"]
    return inferred(own, "as on digits, untuned", benchmark="small_sets")


EMOJI: dict[str, Any] = {"batch_size": 16, "epochs": 2}
"""Half the batch of glyphs, and five times their steps a task; why, is in ``docs/tiny-recipes.md``."""
EMOJI_SEARCHED: dict[str, dict[str, Any]] = {
    "smope": {"lr": 0.01, "prompt_lr_mult": 5.0},
    "hash_prompt": {"lr": 0.05, "head_lr_mult": 0.2},
    "l2p++": {"lr": 0.003, "prompt_lr_mult": 5.0},
    "deep_l2p++": {"lr": 0.003, "prompt_lr_mult": 5.0},
    "dualprompt": {"lr": 0.003, "prompt_lr_mult": 5.0},
    "coda_prompt": {"lr": 0.003, "prompt_lr_mult": 5.0},
    "ovor": {"lr": 0.01, "prompt_lr_mult": 5.0},
    "hide_prompt": {"lr": 0.05, "head_lr_mult": 0.2},
    "norga": {"lr": 0.015, "head_lr_mult": 0.2},
    "vq_prompt": {"lr": 0.01, "prompt_lr_mult": 5.0},
    "cpg": {"lr": 0.135, "temperature": 28.0},
    "one_prompt": {"lr": 0.01, "prompt_lr_mult": 5.0},
    "linear_probe": {"lr": 0.01, "beta1": 0.0},
    "ranpac": {"lr": 0.03, "prompt_lr_mult": 5.0},
    "ease": {"lr": 0.41, "proxy_scale": 20.0},
    "inflora": {"lr": 0.003, "threshold": 0.98},
    "sd_lora": {"lr": 0.015, "magnitude": 0.2},
    "joint_head": {"lr": 0.01, "beta1": 0.0},
    "joint": {"lr": 0.01, "prompt_lr_mult": 5.0},
}
"""Found on held-out training pictures of ``emoji_r``: the base rate and one other setting, of the method or its schedule."""


def _on_emoji() -> list[TrainingRecipe]:
    """As on glyphs but for batch, rate and one other setting."""
    found: list[TrainingRecipe] = []
    for recipe in SEARCHED:
        if recipe.benchmark == ANY:
            found += inferred([replace(recipe, backbone="tiny_colour")], "as on glyphs, untuned")
        if recipe.benchmark != "glyphs":
            continue
        best = EMOJI_SEARCHED.get(recipe.method, {})
        of_schedule = {key: value for key, value in best.items() if key in ("lr", "beta1")}
        of_method = {key: value for key, value in best.items() if key not in of_schedule}
        schedule, config = {**recipe.schedule, **EMOJI, **of_schedule}, {**recipe.config, **of_method}
        there = replace(recipe, benchmark="emoji_r", backbone="tiny_colour", schedule=schedule, config=config)
        found += [there] if best else inferred([there], "as on glyphs but for the batch, untuned")
    return found


TINY: tuple[TrainingRecipe, ...] = (
    *SEARCHED,
    *_on_random_weights(),
    *_on_fashion(),
    *_on_glyph_domains(),
    *_on_small_sets(),
    *_on_emoji(),
)
