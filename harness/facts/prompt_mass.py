"""What an untrained prefix receives of a backbone's attention, measured when the backbone is described; kept nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smope_bench.harness.facts.settings import Facts
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor

    from smope_bench.methods.common.backbone.backbones import Backbone

IMAGES = 8


def prompt_mass_facts(backbone: Backbone) -> Facts:
    """By block, from the first: share of attention that an untrained prefix receives, in percent, and size of the key biases.

    ``error`` alone where the weights cannot be loaded or the backbone is too large for the memory. Loads PyTorch.
    """
    from smope_bench.methods.common.prompts.prompt_mass import LENGTH, is_inert, key_bias_norms, untrained_shares

    try:
        vit = backbone.load()
        shares = untrained_shares(vit, sample_images(backbone))
    except (MethodError, MemoryError) as error:
        return {"error": str(error)}
    return {
        "shares": [100 * share for share in shares],
        "key_bias_norms": key_bias_norms(vit),
        "is_inert": is_inert(shares),
        "prefix": f"{LENGTH} pairs a head in every block, drawn uniformly from [0, 1) with seed 0",
        "sample": f"{IMAGES} of scikit-learn's digits at {backbone.image_size} px",
    }


def sample_images(backbone: Backbone, count: int = IMAGES) -> Tensor:
    """The same ``count`` digits each time, as the backbone takes them: (count, 3, size, size)."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from smope_bench.benchmarks.datasets.digits import enlarged

    ink, _ = load_digits(return_X_y=True)
    chosen = np.asarray(ink)[np.arange(count) * len(ink) // count].reshape(-1, 8, 8)
    images = torch.from_numpy(enlarged(chosen, backbone.image_size)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(given or [default] * 3) for given, default in ((backbone.mean, 0.0), (backbone.std, 1.0)))
    return (images - mean[:, None, None]) / std[:, None, None]


def prompt_mass_words(facts: Facts) -> dict[str, Any]:
    """The same as rows of ``describe``."""
    if "error" in facts:
        return {"prompt mass": f"not measured: {facts['error']}"}
    lines = [
        f"{' '.join(f'{share:.3g}' for share in facts['shares'])} % of the attention, by block",
        f"to an untrained prefix ({facts['prefix']}) on {facts['sample']}",
    ]
    if facts["is_inert"]:
        lines.append("warning: prompts are nearly inert here: most blocks give them less than 2 % of their attention")
    norms = " ".join(f"{norm:.3g}" for norm in facts["key_bias_norms"])
    return {
        "prompt mass": lines,
        "key biases": f"{norms}, norm by block; only what lies along the queries matters",
    }
