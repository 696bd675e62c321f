"""Training pictures of the colour backbone are varied, by their seed alone."""

import torch

from smope_bench.harness.maintenance.pretrain_colour import varied


def test_pictures_are_varied_by_the_seed_alone() -> None:
    pictures = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    once, again, other = (varied(pictures, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other) and not torch.equal(once, pictures)
    assert once.shape == pictures.shape and float(once.min()) >= 0 and float(once.max()) <= 1
