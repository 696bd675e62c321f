"""``emoji_r``: no hand in both splits, one seed an image, bytes that repeat, and nothing but the pinned files and renderer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pydantic import ValidationError

from smope_bench.benchmarks.datasets import emoji_sets
from smope_bench.benchmarks.datasets.emoji_r import EmojiR, EmojiRConfig, npm_registry, scene
from smope_bench.benchmarks.datasets.emoji_sets import FAMILIES, SETS, Icon, concepts, drawn, read_icons
from smope_bench.benchmarks.errors import BenchmarkError

Tree = dict[str, bytes]
SMALL = {"image_size": 8, "train_per_class": 9, "test_per_class": 3}
RED_BAR = Icon('<rect width="4" height="2" fill="#ff0000"/>', 0, 0, 4, 2)


@pytest.fixture(scope="module")
def tree(layouts: ModuleType) -> Tree:
    return layouts.emoji_archives()


def made(layouts: ModuleType, tmp_path: Path, tree: Tree, **config: object) -> EmojiR:
    kind = layouts.emoji_over(EmojiR, tmp_path / "web", tree)
    return kind(EmojiRConfig.model_validate(SMALL | config), tmp_path / "data")


def test_every_class_is_drawn_by_all_sets_and_is_no_concept_to_train_on() -> None:
    classes, others = concepts("class"), concepts("pretrain")
    assert len(classes) == 200 and len(others) > 400
    assert all(set(concept.icons) == {one.name for one in SETS} for concept in classes)
    assert min(len(concept.icons) for concept in others) >= 9
    names = {concept.name for concept in classes}
    words = [set(concept.name.split("-")) for concept in others]
    assert not names & {concept.name for concept in others}
    assert not any(names & word for word in words), "such as hot-dog beside dog"


def test_prepared_pictures_are_whole_repeat_and_grow(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    images.prepare()
    train, test = images.image_set("train"), images.image_set("test")
    assert np.bincount(train.labels).tolist() == [9] * 200 and np.bincount(test.labels).tolist() == [3] * 200
    again = made(layouts, tmp_path / "again", tree)
    again.prepare()
    assert again.content_hash() == images.content_hash()
    more = made(layouts, tmp_path / "more", tree, train_per_class=12)
    more.prepare()
    first = [np.flatnonzero(one.labels == 7)[:9] for one in (train, more.image_set("train"))]
    assert np.array_equal(train.images[first[0]], more.image_set("train").images[first[1]])
    assert not np.array_equal(train.images[first[0][:1]], train.images[first[0][1:2]])
    assert images.class_names[0] == "airplane"


def test_no_hand_is_in_both_splits_and_families_have_equal_shares() -> None:
    images = EmojiR(EmojiRConfig(), Path("unused"))
    hands = {split: Counter(one.family for one in images.hands(split, 36)) for split in ("train", "test")}
    assert set(hands["train"]) | set(hands["test"]) == set(FAMILIES)
    assert not set(hands["train"]) & set(hands["test"])
    assert set(hands["train"].values()) == {9} and set(hands["test"].values()) == {12}
    sets = Counter(one.name for one in images.hands("train", 36))
    assert sets["fluent-emoji"] == sets["fluent-emoji-high-contrast"] == 3
    with pytest.raises(ValidationError, match="leave one out"):
        EmojiRConfig(test_families=FAMILIES)  # pyright: ignore[reportArgumentType]


def test_classes_of_a_category_are_together_or_apart() -> None:
    category = [concept.category for concept in concepts("class")]
    assert set(category) == {"Activities", "Animals & Nature", "Food & Drink", "Objects", "Travel & Places"}

    def categories_of_tasks(related: str, seed: int = 3) -> list[Counter[str]]:
        order = EmojiR(EmojiRConfig.model_validate({"related": related}), Path("unused")).class_order(seed)
        assert sorted(order) == list(range(200))
        return [Counter(category[label] for label in order[start : start + 20]) for start in range(0, 200, 20)]

    together, apart, usual = map(categories_of_tasks, ("together", "apart", "any"))
    assert sum(len(one) == 1 for one in together) >= 5 and max(map(len, together)) <= 3
    assert all(4 <= one["Objects"] <= 7 and 4 <= one["Animals & Nature"] <= 6 for one in apart)
    assert not all(4 <= one["Objects"] <= 7 for one in usual)
    assert categories_of_tasks("together", 4) != together
    assert "related" not in EmojiRConfig().model_dump()


def test_an_icon_is_placed_turned_and_inked() -> None:
    plain = drawn(RED_BAR.group(0.5, (0.5, 0.5), 0, "#000"), 8)
    assert plain[4, 3].tolist() == [255, 0, 0] and plain[4, 1].tolist() == [0, 0, 0], "half the side wide"
    upright = drawn(RED_BAR.group(0.5, (0.5, 0.5), 90, "#000"), 8)
    assert np.array_equal(upright, plain.transpose(1, 0, 2))
    half = Icon('<rect width="2" height="2" fill="currentColor"/>', 0, 0, 4, 2)
    left, right = (
        drawn(Icon(half.body, 0, 0, 4, 2, flip).group(1, (0.5, 0.5), 0, "#00ff00"), 8) for flip in (False, True)
    )
    assert left[4, 1].tolist() == [0, 255, 0] and left[4, 6].tolist() == [0, 0, 0]
    assert np.array_equal(right, left[:, ::-1])
    assert scene(RED_BAR, (0, 1)) == scene(RED_BAR, (0, 1)) != scene(RED_BAR, (0, 2))


def test_aliases_stand_for_their_icons(layouts: ModuleType, tmp_path: Path) -> None:
    content = {
        "icons": {"cat": {"body": "<path/>", "width": 20}},
        "aliases": {"kitten": {"parent": "puss", "hFlip": True}, "puss": {"parent": "cat"}},
        "height": 10,
    }
    archive = tmp_path / "set.tgz"
    archive.write_bytes(layouts.emoji_archives(noto=content)[SETS[0].remote().name])
    assert read_icons(archive, {"a cat": "kitten"}) == {"a cat": Icon("<path/>", 0, 0, 20, 10, flip=True)}
    with pytest.raises(BenchmarkError, match="no usable icon 'dog', which draws 'a dog'"):
        read_icons(archive, {"a dog": "dog"})


@pytest.mark.parametrize(
    ("content", "message"), [({"icons": {}}, "no usable icon 'airplane'"), ({"icons": 3}, "lists no icons")]
)
def test_a_set_that_lacks_a_concept_is_named(
    layouts: ModuleType, tmp_path: Path, content: dict[str, object], message: str
) -> None:
    images = made(layouts, tmp_path, layouts.emoji_archives(twemoji=content))
    with pytest.raises(BenchmarkError, match=f"twemoji-1.2.5.tgz.*{message}"):
        images.prepare()
    with pytest.raises(BenchmarkError, match="no prepared images"):
        images.image_set("train")


def test_an_archive_of_another_version_is_refused(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    images.prepare()  # pins nothing: digests are published
    given = tmp_path / "given"
    given.mkdir()
    for name, data in tree.items():
        (given / name).write_bytes(data)
    (given / "twemoji-1.2.5.tgz").write_bytes(tree["noto-1.2.9.tgz"])
    said: list[str] = []
    other = EmojiR(EmojiRConfig.model_validate(SMALL), tmp_path / "other")
    other.remotes = tuple(  # type: ignore[misc]
        type(one)(one.name, (f"file://{tmp_path}/nowhere/{one.name}",), one.digest, one.size) for one in images.remotes
    )
    with pytest.raises(BenchmarkError, match=r"twemoji-1\.2\.5\.tgz"):
        other.prepare(said.append, [given])


def test_another_renderer_is_refused_by_name(
    layouts: ModuleType, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emoji_sets.metadata, "version", lambda name: "0.4.0")
    with pytest.raises(
        BenchmarkError, match=r"resvg-py 0\.4\.0 is installed.*by 0\.5\.0.*pip install 'smope-bench\[emoji\]'"
    ):
        made(layouts, tmp_path, tree).prepare()


def test_the_registry_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert npm_registry() == "https://registry.npmjs.org/"
    (tmp_path / ".npmrc").write_text("; mine\n//example.org/:_authToken=secret\nregistry = https://example.org/npm\n")
    assert npm_registry() == "https://example.org/npm"
    monkeypatch.setenv("npm_config_registry", "https://example.net")
    assert npm_registry() == "https://example.net"
