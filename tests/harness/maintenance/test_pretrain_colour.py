"""Training pictures of the colour backbone are varied, by their seed alone."""

import torch

from smope_bench.harness.maintenance.pretrain import build, taking_pixels
from smope_bench.harness.maintenance.pretrain_colour import varied


def test_pictures_are_varied_by_the_seed_alone() -> None:
    pictures = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    once, again, other = (varied(pictures, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other) and not torch.equal(once, pictures)
    assert once.shape == pictures.shape and float(once.min()) >= 0 and float(once.max()) <= 1


def test_the_exported_network_takes_the_pixels_that_were_normalised_in_training() -> None:
    architecture = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 0}
    model = build(architecture, 3, seed=0).double().eval()
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    expected = model((pixels - 0.6) / 0.26)
    torch.testing.assert_close(taking_pixels(model, 0.6, 0.26)(pixels), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model((pixels - 0.6) / 0.26), expected, rtol=0, atol=0)  # the model itself is as it was
