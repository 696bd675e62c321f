"""Training pictures of the colour backbone are varied by their seed alone; its gates measure what they name."""

import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest
import torch

from smope_bench.benchmarks.datasets.emoji_r import EmojiR, EmojiRConfig
from smope_bench.benchmarks.datasets.emoji_sets import Icon, concepts
from smope_bench.harness.maintenance.pretraining import colour_gates
from smope_bench.harness.maintenance.pretraining.colour import ARCHITECTURE, main, plain_scene, varied
from smope_bench.harness.maintenance.pretraining.colour_gates import rehearse, training_pictures, verdicts
from smope_bench.harness.maintenance.pretraining.tiny import build, taking_pixels
from smope_bench.harness.maintenance.pretraining.tiny_gates import JointRecipe
from smope_bench.methods.common.backbone.backbones import MICRO, TINY_COLOUR, StoredBackbone


def test_pictures_are_varied_by_the_seed_alone() -> None:
    pictures = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    once, again, other = (varied(pictures, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other) and not torch.equal(once, pictures)
    assert once.shape == pictures.shape and float(once.min()) >= 0 and float(once.max()) <= 1


def test_scenes_are_plain_light_paper_by_their_seed_alone() -> None:
    class Square:
        def group(self, size: float, centre: tuple[float, float], angle: float, ink: str) -> str:
            assert 0.55 <= size <= 0.9 and all(size / 2 - 0.051 <= place <= 1.051 - size / 2 for place in centre)
            return f'<rect width="{size}" height="{size}" fill="{ink}"/>'

    scenes = [plain_scene(cast("Icon", Square()), (0, seed)) for seed in (1, 1, 2)]
    assert scenes[0] == scenes[1] != scenes[2]
    paper = re.findall(r'fill="#(..)(..)(..)"', scenes[0])[0]
    assert min(int(channel, 16) for channel in paper) >= 0.8 * 255 - 1 and "Gradient" not in scenes[0]


def test_gates_compare_what_they_name() -> None:
    found = {"ridge": 45.0, "pixels_ridge": 30.0, "head": 52.0, "joint": 60.0}
    assert verdicts(found, [3.0, 5.0, 60.0, 20.0]) == dict.fromkeys(
        ("over_pixels", "gain", "joint", "prompt_shares"), True
    )
    assert not any(verdicts({"ridge": 44.9, "pixels_ridge": 30.0, "head": 52.0, "joint": 59.9}, [61.0, 10.0]).values())


DESCRIBED = json.loads(TINY_COLOUR.description.read_text(encoding="utf-8"))


def test_recorded_gates_are_those_that_the_page_states() -> None:
    recorded = dict(DESCRIBED["gates"])
    shares = recorded.pop("prompt_shares")
    assert len(shares) == DESCRIBED["architecture"]["depth"]
    found = verdicts(recorded, shares)
    assert found == dict.fromkeys(("over_pixels", "gain", "joint", "prompt_shares"), True)
    page = (Path(__file__).parents[4] / "docs" / "tiny-backbone.md").read_text(encoding="utf-8")
    assert page.partition("## Gates of the colour backbone")[2].count("| holds |") == len(found)
    assert f"| 60 % | {recorded['joint']:.1f} % (the head alone {recorded['head']:.1f} %) |" in page


def test_weights_were_trained_on_no_class_of_the_benchmark() -> None:
    assert DESCRIBED["architecture"] == ARCHITECTURE
    assert len(DESCRIBED["concepts"]) > 400
    assert not {concept.name for concept in concepts("class")} & set(DESCRIBED["concepts"])


def test_closed_forms_heads_and_prompts_are_measured_on_held_out_pictures() -> None:
    vit = MICRO.load()
    labels = torch.arange(24) % 2
    noise = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = 0.2 * noise + 0.8 * labels[:, None, None, None]
    data = images[:16], labels[:16], images[16:], labels[16:]
    recipes = (JointRecipe(epochs=40, batch=8, length=2),)
    found = rehearse(vit, data, recipes, recipes)
    assert found.keys() == {"pixels_ridge", "ncm", "ridge", "head", "joint"}
    assert set(found.values()) == {100.0}
    wrong = rehearse(vit, (*data[:3], 1 - labels[16:]), recipes, recipes)
    assert set(wrong.values()) == {0.0}


def test_training_pictures_come_with_their_families(layouts: ModuleType, tmp_path: Path) -> None:
    kind = layouts.emoji_over(EmojiR, tmp_path / "web", layouts.emoji_archives())
    images = kind(EmojiRConfig(image_size=8, train_per_class=8, test_per_class=1), tmp_path / "data")
    images.prepare()
    pixels, labels, families = training_pictures(images)
    assert pixels.shape == (1600, 3, 8, 8) and families[:5] == ["noto", "fluent", "twemoji", "emojione", "noto"]
    assert labels.bincount().tolist() == [8] * 200


@pytest.mark.parametrize("family", [None, "second"])
def test_the_last_pictures_of_each_class_or_a_family_are_held_out(
    family: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count = 2 * colour_gates.PICTURES
    images, labels = torch.arange(count).view(-1, 1, 1, 1), torch.arange(2).repeat_interleave(count // 2)
    families = ["first", "second", "third"] * (count // 3)
    given: list[colour_gates.Data] = []

    def seen(backbone: object, data: colour_gates.Data) -> dict[str, float]:
        given.append(data)
        return {"ridge": 50.0, "pixels_ridge": 5.0, "head": 60.0, "joint": 70.0}

    def shares(backbone: object, pictures: torch.Tensor) -> list[float]:
        assert len(pictures) == colour_gates.WATCHED
        return [0.25]

    monkeypatch.setattr(colour_gates, "training_pictures", lambda benchmark: (images, labels, families))
    monkeypatch.setattr(colour_gates, "rehearse", seen)
    monkeypatch.setattr(colour_gates, "untrained_shares", shares)
    monkeypatch.setattr(StoredBackbone, "load", lambda self: SimpleNamespace(image_size=48))
    assert colour_gates.measure(tmp_path, tmp_path, family)["prompt_shares"] == [25.0]
    ((trained, trained_labels, held, held_labels),) = given
    expected = [n for n in range(count) if (n % 96 >= 72 if family is None else n % 3 == 1)]
    assert held.flatten().tolist() == expected and len(trained) == count - len(expected)
    assert held_labels.tolist() == [n // 96 for n in expected] and not set(trained.flatten().tolist()) & set(expected)
    assert len(trained_labels) == len(trained)


def test_the_command_asks_for_folders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sets"])
    assert "--out" in capsys.readouterr().err


def test_the_exported_network_takes_the_pixels_that_were_normalised_in_training() -> None:
    architecture = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 0}
    model = build(architecture, 3, seed=0).double().eval()
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    expected = model((pixels - 0.6) / 0.26)
    torch.testing.assert_close(taking_pixels(model, 0.6, 0.26)(pixels), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model((pixels - 0.6) / 0.26), expected, rtol=0, atol=0)  # the model itself is as it was
