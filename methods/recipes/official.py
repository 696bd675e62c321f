"""Recipes at paper scale: values of the methods' papers and official code, as their cards record them.

A source names the card and section where each value is with its origin. Sources of other values begin with "inferred: " and
give the reason. All tables use one class order a seed for all methods, which is the benchmarks' own default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from smope_bench.methods.recipes.cpg import CPG
from smope_bench.methods.recipes.schema import INFERRED, TrainingRecipe, inferred, schedule_for

STANDARD: dict[str, str] = {
    "cifar100": "sup1k",
    "imagenet_r": "sup1k",
    "cub200": "sup21k",
    "five_datasets": "sup21k_orig",
    "domainnet_classes": "sup1k",
}
"""Weights of the SMoPE paper's Tables 1, 4, 6 and 7 (SMoPE card, section 7); of 5-Datasets, those of the Hash paper, of
DomainNet, those of CODA-Prompt's scripts."""
SELF_SUPERVISED = ("ibot1k", "dino1k", "moco1k")
COUNTS: dict[str, tuple[int, ...]] = {
    "cifar100": (10, 20),
    "imagenet_r": (5, 10, 20, 50),
    "cub200": (10, 20),
    "five_datasets": (5,),
    "domainnet_classes": (5,),
    "imagenet_a": (10,),
}
"""Numbers of tasks with a recipe."""

CROP: dict[str, Any] = {"kind": "random_resized_crop", "scale": [0.08, 1.0]}
WHOLE: dict[str, Any] = {"image_size": 224, "augment": CROP, "test_resize": None, "normalize": "none"}
CENTRE: dict[str, Any] = WHOLE | {"test_resize": 256}
PLAIN: dict[str, dict[str, Any]] = {
    "cifar100": WHOLE,
    "imagenet_r": CENTRE,
    "cub200": CENTRE,
    "five_datasets": CENTRE,
    "domainnet_classes": CENTRE,
}
"""Transforms of CODA-Prompt, VQ-Prompt, OVOR and SMoPE: [0, 1] without normalisation (SMoPE card, section 6)."""

WIDE: dict[str, Any] = CENTRE | {"augment": CROP | {"scale": [0.05, 1.0]}, "test_interpolation": "bicubic"}
JITTERED: dict[str, Any] = CENTRE | {
    "augment": CROP | {"interpolation": "bicubic", "brightness": 63 / 255},
    "test_interpolation": "bicubic",
    "normalize": "cifar100",
}
HIDE_DATA: dict[str, dict[str, Any]] = {"cifar100": JITTERED, "imagenet_r": WIDE, "cub200": WIDE, "five_datasets": WIDE}
"""Transforms of HiDe-Prompt and NoRGa (HiDe-Prompt card, section 6.3). On 5-Datasets those of the sets before CIFAR-10, for all."""
CENTRED: dict[str, dict[str, Any]] = dict.fromkeys(PLAIN, CENTRE)
"""Crop and mirror, central square at test, on every benchmark (Hash card, section 9.3)."""

Values = Mapping[str, Any]


def _stated(
    method: str,
    benchmark: str,
    source: str,
    schedule: Values,
    config: Values | None = None,
    *,
    backbone: str | None = None,
    tasks: Iterable[int] = (10,),
    data: Mapping[str, Values] = PLAIN,
) -> list[TrainingRecipe]:
    """One recipe for each number of tasks that the source covers."""
    weights = backbone or STANDARD[benchmark]
    return [
        TrainingRecipe(method, benchmark, weights, source, schedule, config or {}, data[benchmark], count)
        for count in tasks
    ]


def with_other_counts(recipes: Iterable[TrainingRecipe]) -> list[TrainingRecipe]:
    """The recipes, and inferred ones for numbers of tasks that no source covers, taken from the nearest one that is.

    Only for supervised weights: no paper reports other numbers of tasks with self-supervised ones.
    """
    groups: dict[tuple[str, str, str], list[TrainingRecipe]] = {}
    for recipe in recipes:
        groups.setdefault((recipe.method, recipe.benchmark, recipe.backbone), []).append(recipe)
    found: list[TrainingRecipe] = []
    for (_, benchmark, backbone), group in groups.items():
        found += group
        for count in () if backbone in SELF_SUPERVISED else COUNTS[benchmark]:
            if all(recipe.tasks != count for recipe in group):
                found += _for_count(min(group, key=lambda recipe: abs((recipe.tasks or 0) - count)), count)
    return found


def _for_count(near: TrainingRecipe, count: int) -> list[TrainingRecipe]:
    """A recipe for another number of tasks; nominal steps are proportional to the images of a task, as in the stated recipes."""
    schedule = schedule_for(near, count)
    nominal = " with its nominal steps in proportion" if "steps_per_epoch" in schedule else ""
    return inferred([near], f"as in {near.tasks} tasks{nominal}", tasks=count, schedule=schedule)


def _moved(
    recipes: Iterable[TrainingRecipe], why: str, *backbones: str, benchmark: str = "imagenet_r"
) -> list[TrainingRecipe]:
    """The ten-task recipes of a benchmark with other weights, where only the weights were changed."""
    ten = [recipe for recipe in recipes if recipe.benchmark == benchmark and recipe.tasks == 10]
    return [moved for backbone in backbones for moved in inferred(ten, why, backbone=backbone)]


# -- L2P++, Deep L2P++, DualPrompt, CODA-Prompt: one trainer -----------------------------------------------------------

EPOCH_COSINE: dict[str, Any] = {"batch_size": 128, "lr": 1e-3, "shape": "cosine"}


def _coda_family(method: str, card: str) -> list[TrainingRecipe]:
    """20 epochs on CIFAR-100, 5 on DomainNet, 50 elsewhere; the prompts' sizes are the methods' defaults."""
    longer, source = EPOCH_COSINE | {"epochs": 50}, f"{card}, section 5.1"
    cub = f"{INFERRED}no published setting, the first of two candidates; {card}, section 9.2"
    pictures = [
        *_stated(method, "imagenet_r", source, longer, tasks=(5, 10, 20)),
        *_stated(method, "domainnet_classes", source, EPOCH_COSINE | {"epochs": 5}, tasks=(5,)),
    ]
    if method == "deep_l2p++":
        pictures = inferred(pictures, "as L2P++, the official script covers CIFAR-100 only")
    return [
        *_stated(method, "cifar100", source, EPOCH_COSINE | {"epochs": 20}),
        *pictures,
        *_stated(method, "cub200", cub, longer),
    ]


L2P = [*_coda_family("l2p++", "L2P++ card"), *_coda_family("deep_l2p++", "L2P++ card")]
DUALPROMPT = _coda_family("dualprompt", "DualPrompt card")
CODA = _coda_family("coda_prompt", "CODA-Prompt card")

# -- OVOR: a fifth of the epochs trains the classifier on outliers -----------------------------------------------------

OVOR_STEPS: dict[str, Any] = EPOCH_COSINE | {"drop_last": False}
OVOR_CARD = "OVOR card, sections 5 and 9"
OVOR_SOURCE = f"{INFERRED}as in the script, whose own weights are an earlier AugReg checkpoint; {OVOR_CARD}"
OVOR_CUB = f"{INFERRED}no published epochs, 40 + 10 as for 20-class tasks; {OVOR_CARD}"
OVOR_DOMAINNET = f"{INFERRED}no published setting, as CODA-Prompt's scripts; {OVOR_CARD}"
OVOR_FIVE = f"{INFERRED}no published setting, as on CIFAR-100; {OVOR_CARD}"
OVOR = [
    *_stated("ovor", "cifar100", OVOR_SOURCE, OVOR_STEPS | {"epochs": 20}),
    *_stated("ovor", "five_datasets", OVOR_FIVE, OVOR_STEPS | {"epochs": 20}, tasks=(5,)),
    *_stated("ovor", "imagenet_r", OVOR_SOURCE, OVOR_STEPS | {"epochs": 50}),
    *_stated("ovor", "cub200", OVOR_CUB, OVOR_STEPS | {"epochs": 50}),
    *_stated("ovor", "domainnet_classes", OVOR_DOMAINNET, OVOR_STEPS | {"epochs": 5}, tasks=(5,)),
]

# -- VQ-Prompt and SMoPE: one trainer, rates a step --------------------------------------------------------------------


def _warm(batch: int, lr: float, steps: int, freeze: int) -> dict[str, Any]:
    """``coswm``: ``steps`` an epoch by the config's count, ``freeze`` of them at the floor."""
    return {
        "batch_size": batch,
        "epochs": 20,
        "lr": lr,
        "shape": "coswm",
        "steps_per_epoch": steps,
        "freeze_steps": freeze,
    }


def _by_epoch(lr: float) -> dict[str, Any]:
    return {"batch_size": 128, "epochs": 20, "lr": lr, "shape": "cosine"}


VQ_SOURCE = "VQ-Prompt card, sections 4 and 5"
VQ_SMALL: dict[str, Any] = {"tap": {"samples": 256}}
VQ = [
    *_stated("vq_prompt", "cifar100", VQ_SOURCE, _warm(128, 0.0025, 40, 80), {"tap": {"samples": 512}}),
    *_stated("vq_prompt", "imagenet_r", VQ_SOURCE, _warm(64, 0.0025, 80, 80), VQ_SMALL, tasks=(5,)),
    *_stated("vq_prompt", "imagenet_r", VQ_SOURCE, _warm(64, 0.0025, 40, 40), VQ_SMALL),
    *_stated("vq_prompt", "imagenet_r", VQ_SOURCE, _warm(64, 0.0025, 20, 20), VQ_SMALL, tasks=(20,)),
    *_stated("vq_prompt", "cub200", VQ_SOURCE, _by_epoch(0.0025), VQ_SMALL | {"temperature": 5.0}),
]


def _parts(epsilon: float, router: float, proto: float, tap_epochs: int, samples: int) -> dict[str, Any]:
    """The settings of SMoPE that differ between benchmarks; experts and top_k are 25 and 5 throughout."""
    return {
        "epsilon": epsilon,
        "alpha_router": router,
        "alpha_proto": proto,
        "tap": {"epochs": tap_epochs, "samples": samples},
    }


SMOPE_SOURCE = "SMoPE card, section 7"
SMOPE_UNRUN = f"{SMOPE_SOURCE} (the released command names a learner that does not exist)"
SMOPE_5, SMOPE_10, SMOPE_20 = (_warm(64, 0.0025, steps, freeze) for steps, freeze in ((80, 80), (40, 40), (20, 20)))
SMOPE = [
    *_stated("smope", "cifar100", SMOPE_SOURCE, _warm(128, 0.005, 40, 80), _parts(0.4, 1e-5, 1e-5, 50, 128)),
    *_stated("smope", "cub200", SMOPE_SOURCE, _by_epoch(0.005), _parts(0.4, 1e-5, 5e-5, 50, 128)),
    *_stated("smope", "imagenet_r", SMOPE_SOURCE, SMOPE_5, _parts(0.7, 1e-4, 1e-5, 60, 128), tasks=(5,)),
    *_stated("smope", "imagenet_r", SMOPE_UNRUN, SMOPE_10, _parts(0.5, 5e-5, 1e-4, 50, 384)),
    *_stated("smope", "imagenet_r", SMOPE_UNRUN, SMOPE_20, _parts(0.3, 1e-4, 5e-5, 50, 256), tasks=(20,)),
]

# -- HiDe-Prompt, NoRGa and Hash: one trainer, task inference ----------------------------------------------------------

CLIPPED: dict[str, Any] = {"batch_size": 128, "lr": 0.015, "grad_clip": 1.0, "drop_last": False}
STEP: dict[str, Any] = CLIPPED | {"epochs": 50, "shape": "step"}
LONG: dict[str, Any] = CLIPPED | {"epochs": 150, "shape": "epoch_cosine", "min_lr": 1e-5}
CONSTANT: dict[str, Any] = CLIPPED | {"epochs": 50, "shape": "constant"}
FIVE: dict[str, Any] = CLIPPED | {"epochs": 20, "shape": "constant", "grad_clip": 2.0}
SHORT: dict[str, Any] = CLIPPED | {"epochs": 20, "shape": "step"}
SPLIT_RATES: dict[str, Any] = {"head_lr_mult": 0.1}
CUB_RATES: dict[str, Any] = {"head_lr_mult": 1.0, "task_inference": {"lr": 0.005}}

CIFAR_PREFIX: dict[str, Any] = SPLIT_RATES | {"length": 5, "contrastive": 0.1, "momentum": 0.01}
IMAGENET_PREFIX: dict[str, Any] = SPLIT_RATES | {"length": 20, "contrastive": 0.5, "momentum": 0.01}
CUB_PREFIX: dict[str, Any] = CUB_RATES | {"length": 20, "contrastive": 0.01, "momentum": 0.01}
FIVE_RATES: dict[str, Any] = {"task_inference": {"lr": 0.0005}}
FIVE_PREFIX: dict[str, Any] = SPLIT_RATES | FIVE_RATES | {"length": 40, "contrastive": 0.1, "momentum": 0.01}
STRONG_TAP: dict[str, Any] = {"tap": {"epochs": 80, "lr": 0.05}}
ORIGINAL = "sup21k_orig"
HIDE_SOURCE = "HiDe-Prompt card, sections 4 and 6 (single-GPU variant: section 9.1)"
NORGA_SOURCE = "NoRGa card, sections 4 and 6"
SCRIPTS = "scripts imr_* and cifar100_* for iBOT, DINO and MoCo v3 in NoRGa's repository"
UNCLEAR = "as with the original 21k weights; which weights the table's row used is not known"
HOME: dict[str, Any] = {"backbone": ORIGINAL, "data": HIDE_DATA}


def _on_table_weights(recipes: Iterable[TrainingRecipe], why: str) -> list[TrainingRecipe]:
    """The recipes on the weights that every other method of the SMoPE paper's tables uses."""
    return [moved for recipe in recipes for moved in inferred([recipe], why, backbone=STANDARD[recipe.benchmark])]


HIDE_HOME = [
    *_stated("hide_prompt", "cifar100", HIDE_SOURCE, STEP, CIFAR_PREFIX, **HOME),
    *_stated("hide_prompt", "imagenet_r", HIDE_SOURCE, LONG, IMAGENET_PREFIX, **HOME),
    *_stated("hide_prompt", "cub200", HIDE_SOURCE, STEP, CUB_PREFIX, **HOME),
]
HIDE_FIVE = _stated("hide_prompt", "five_datasets", HIDE_SOURCE, FIVE, FIVE_PREFIX, tasks=(5,), **HOME)


def _hide_self_supervised(backbone: str) -> list[TrainingRecipe]:
    placed: dict[str, Any] = {"backbone": backbone, "data": HIDE_DATA}
    source, on_cifar = f"{HIDE_SOURCE}; {SCRIPTS}", CIFAR_PREFIX | {"momentum": 0.1}
    found = _stated("hide_prompt", "imagenet_r", source, CONSTANT, IMAGENET_PREFIX, **placed)
    return found + _stated("hide_prompt", "cifar100", source, SHORT, on_cifar, **placed)


HIDE = [
    *HIDE_HOME,
    *HIDE_FIVE,
    *_on_table_weights(HIDE_HOME, UNCLEAR),
    *(recipe for backbone in SELF_SUPERVISED for recipe in _hide_self_supervised(backbone)),
]

SIGMOID: dict[str, Any] = {"activation": "sigmoid"}
NORGA_CUB: dict[str, Any] = {"task_inference": {"lr": 0.005, "tap": {"lr": 0.025}}}
NORGA_HOME = [
    *_stated("norga", "cifar100", NORGA_SOURCE, STEP, CIFAR_PREFIX | STRONG_TAP | SIGMOID, **HOME),
    *_stated("norga", "imagenet_r", NORGA_SOURCE, LONG, IMAGENET_PREFIX | SIGMOID, **HOME),
    *_stated("norga", "cub200", NORGA_SOURCE, STEP, CUB_PREFIX | NORGA_CUB | STRONG_TAP | SIGMOID, **HOME),
]
NORGA_TANH = FIVE_PREFIX | {"activation": "tanh"}
NORGA_FIVE = _stated("norga", "five_datasets", NORGA_SOURCE, FIVE, NORGA_TANH, tasks=(5,), **HOME)


def _norga_self_supervised(backbone: str, gates: tuple[str, str], tap: Values) -> list[TrainingRecipe]:
    """ImageNet-R and CIFAR-100, with the activation of each (NoRGa card, sections 4 and 6)."""
    on_imagenet_r, on_cifar = ({"activation": gate} for gate in gates)
    aligned = {"momentum": 0.1, "tap": {"epochs": 80}, "task_inference": {"tap": {"lr": 0.025}}}
    placed: dict[str, Any] = {"backbone": backbone, "data": HIDE_DATA}
    config, source = IMAGENET_PREFIX | on_imagenet_r | {"tap": tap}, f"{NORGA_SOURCE}; {SCRIPTS}"
    found = _stated("norga", "imagenet_r", source, CONSTANT, config, **placed)
    return found + _stated("norga", "cifar100", source, SHORT, CIFAR_PREFIX | on_cifar | aligned, **placed)


NORGA = [
    *NORGA_HOME,
    *NORGA_FIVE,
    *_on_table_weights(NORGA_HOME, UNCLEAR),
    *_norga_self_supervised("ibot1k", ("sigmoid", "tanh"), {"epochs": 80}),
    *_norga_self_supervised("dino1k", ("tanh", "tanh"), {"epochs": 30}),
    *_norga_self_supervised("moco1k", ("gelu", "gelu"), {"epochs": 30}),
]

HASH_SOURCE = f"{INFERRED}pool, penalties and normalisation are not published; Hash card, sections 2 and 9"
HASH_PLACED: dict[str, Any] = {"backbone": ORIGINAL, "data": CENTRED}
HASH_LONG: dict[str, Any] = SPLIT_RATES | {"prefix_len": 20}
HASH_HOME = [
    *_stated(
        "hash_prompt", "cifar100", HASH_SOURCE, STEP, SPLIT_RATES | {"prefix_len": 5}, tasks=(10, 20), **HASH_PLACED
    ),
    *_stated("hash_prompt", "imagenet_r", HASH_SOURCE, LONG, HASH_LONG, tasks=(10, 20), **HASH_PLACED),
    *_stated("hash_prompt", "cub200", HASH_SOURCE, STEP, CUB_RATES | {"prefix_len": 20}, **HASH_PLACED),
]
HASH_SELF = [replace(recipe, schedule=CONSTANT) for recipe in HASH_HOME if recipe.benchmark == "imagenet_r"]
HASH_FIVE = _stated(
    "hash_prompt",
    "five_datasets",
    f"{HASH_SOURCE}; epochs, rates and prefixes as HiDe-Prompt's",
    FIVE,
    SPLIT_RATES | FIVE_RATES | {"prefix_len": 40},
    tasks=(5,),
    **HASH_PLACED,
)
HASH = [
    *HASH_HOME,
    *HASH_FIVE,
    *_on_table_weights(HASH_HOME, "as with the original 21k weights"),
    *_moved(HASH_SELF, "epochs and rate as HiDe-Prompt with such weights", *SELF_SUPERVISED),
]

# -- other weights, and other numbers of tasks -------------------------------------------------------------------------

NO_SCRIPT = "as with sup1k, no script for these weights"
MOVED = [
    *_moved([*DUALPROMPT, *CODA, *VQ], NO_SCRIPT, "ibot1k", "dino1k"),
    *_moved(OVOR, NO_SCRIPT, *SELF_SUPERVISED, ORIGINAL),
    *_moved(OVOR, NO_SCRIPT, ORIGINAL, benchmark="cifar100"),
    *_moved(OVOR, NO_SCRIPT, ORIGINAL, benchmark="cub200"),
    *_moved(SMOPE, NO_SCRIPT, "ibot1k", "dino1k"),
]

OFFICIAL: tuple[TrainingRecipe, ...] = (
    *with_other_counts([*L2P, *DUALPROMPT, *CODA, *OVOR, *VQ, *HIDE, *NORGA, *HASH, *SMOPE, *MOVED]),
    *CPG,
)
