"""``imagenet_r``: the published split to the picture, the seeded one beside it, and archives that do not fit."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from smope_bench.benchmarks.base import Split
from smope_bench.benchmarks.datasets.published.imagenet_r import (
    TEST_LIST,
    TRAIN_LIST,
    ImageNetR,
    ImageNetRConfig,
    listed_wnids,
    read_split_list,
)
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import build_stream

Tree = dict[str, bytes]
COUNTS = json.loads(Path(__file__).with_name("imagenet_r_counts.json").read_text())
ALPHABETICAL = sorted(listed_wnids())


@pytest.fixture(scope="module")
def tree(layouts: ModuleType) -> Tree:
    return layouts.imagenet_r(listed_wnids())


def made(layouts: ModuleType, tmp_path: Path, tree: Tree, **config: object) -> ImageNetR:
    kind = layouts.imagenet_r_over(ImageNetR, tmp_path / "web", tree, listed_wnids())
    return kind(ImageNetRConfig.model_validate(config), tmp_path / "data")


def colours(images: ImageNetR, split: Split) -> list[tuple[int, list[int]]]:
    """(class id, colour of the first pixel) of every picture."""
    part = images.image_set(split)
    files = part.images[np.arange(len(part.labels))].files
    pixels = [np.asarray(Image.open(io.BytesIO(file)))[0, 0].astype(int).tolist() for file in files]
    return list(zip(part.labels.tolist(), pixels, strict=True))


def test_ids_are_those_of_the_lists_and_not_the_alphabet() -> None:
    wnids = listed_wnids()
    assert hashlib.sha1(",".join(wnids).encode()).hexdigest()[:12] == "5e00e792bf2c"
    assert wnids[:5] == ("n02165456", "n03594945", "n02325366", "n02814860", "n02966193")
    assert len(set(wnids)) == 200 and list(wnids) != ALPHABETICAL


def test_the_published_lists_decide_split_and_id(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    said: list[str] = []
    images.prepare(said.append)
    assert images.class_names == listed_wnids()
    for split, blue in (("train", 0), ("test", 40)):
        seen = colours(images, split)  # type: ignore[arg-type]
        assert len(seen) == 200
        for label, (red, green, _) in seen:
            # The fixture's red is the rank of the folder's name; JPEG moves it by a little.
            assert abs(red - ALPHABETICAL.index(listed_wnids()[label])) <= 4 and abs(green - blue) <= 4
    assert any("publish no digest" in line and "pinned" in line for line in said)
    tasks = build_stream(images, 0).tasks
    assert tasks[0].names[0] == listed_wnids()[131]


def test_folder_ids_are_ranks_of_names(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree, label_ids="folder", class_order="natural")
    images.prepare()
    assert list(images.class_names) == ALPHABETICAL
    assert all(abs(red - label) <= 4 for label, (red, _, _) in colours(images, "train"))
    assert build_stream(images, 42).class_order == tuple(range(200))


@pytest.mark.parametrize("tasks", [5, 10, 20, 50])
def test_numbers_of_tasks(layouts: ModuleType, tmp_path: Path, tasks: int) -> None:
    images = ImageNetR(ImageNetRConfig(tasks=tasks), tmp_path)
    assert images.task_sizes() == (200 // tasks,) * tasks


def test_seven_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="200 classes cannot be split evenly into 7 tasks"):
        ImageNetR(ImageNetRConfig(tasks=7), tmp_path).task_sizes()


def test_the_seeded_split_is_a_fifth_of_each_class(layouts: ModuleType, tmp_path: Path) -> None:
    picture: bytes = layouts.jpeg((1, 2, 3), (8, 8))
    tree = {f"imagenet-r/{wnid}/art_{image}.jpg": picture for wnid in listed_wnids() for image in range(5)}

    def split(seed: int) -> dict[str, str]:
        images = made(layouts, tmp_path / str(seed), tree, lists="seeded", split_seed=seed)
        return {picture.name: picture.split for picture in images.pictures(lambda _: None)}

    first = split(0)
    assert Counter(first.values()) == {"train": 800, "test": 200}
    assert all(count == 1 for count in Counter(name.split("/")[0] for name in first if first[name] == "test").values())
    positions = list(range(5))
    random.Random(f"imagenet_r 0 class {listed_wnids()[0]}").shuffle(positions)
    names = sorted(name for name in tree if listed_wnids()[0] in name)
    assert {names[row].removeprefix("imagenet-r/") for row in positions[:1]} == {
        name for name in first if name.startswith(listed_wnids()[0]) and first[name] == "test"
    }
    assert split(1) != first


def test_seeded_and_published_do_not_share_a_cache(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    configs = [{}, {"lists": "seeded"}, {"lists": "seeded", "split_seed": 1}, {"label_ids": "folder"}]
    recipes = [json.dumps(made(layouts, tmp_path, tree, **config).recipe()) for config in configs]
    assert len(set(recipes)) == 4
    assert ImageNetRConfig().lists == "published"


def test_without_lists_the_seeded_split_is_named(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    (tmp_path / "web" / TRAIN_LIST.name).unlink()
    with pytest.raises(
        BenchmarkError, match=r"imagenet-r_train.yaml could not be downloaded .*benchmark\.lists=seeded"
    ):
        images.prepare()
    nothing_is_kept(images)
    seeded = made(layouts, tmp_path, tree, lists="seeded")
    (tmp_path / "web" / TEST_LIST.name).unlink()
    seeded.prepare()
    assert len(seeded.image_set("test").labels) == 200


def nothing_is_kept(images: ImageNetR) -> None:
    parent = images.cache_parent
    assert [path.name for path in parent.iterdir() if path.name != "downloads"] == []
    with pytest.raises(BenchmarkError, match="no prepared images"):
        images.image_set("train")


def without(tree: Tree, part: str) -> Tree:
    return {name: data for name, data in tree.items() if part not in name}


FIRST = ALPHABETICAL[0]
BROKEN = {
    "a class folder is missing": (lambda tree, _: without(tree, FIRST), f"has no class folder '{FIRST}'"),
    "an unknown folder": (
        lambda tree, _: {**tree, "imagenet-r/n99999999/a_1.jpg": b"?"},
        "holds 'n99999999', which is no class",
    ),
    "a split of its own, as LAMDA-PILOT distributes it": (
        lambda tree, _: {name.replace("imagenet-r/", "imagenet-r/train/", 1): data for name, data in tree.items()},
        "in a split of its own, not the original: read it by --benchmarks imagefolder",
    ),
    "a picture that does not decode": (
        lambda tree, _: {**tree, f"imagenet-r/{FIRST}/art_0.jpg": tree[f"imagenet-r/{FIRST}/art_0.jpg"][:300]},
        f"1 of 400 files cannot be used: {FIRST}/art_0.jpg: ",
    ),
    "no picture at all": (
        lambda tree, _: {**tree, f"imagenet-r/{FIRST}/sketch_1.jpg": b"GIF99"},
        f"{FIRST}/sketch_1.jpg: not an image",
    ),
}


@pytest.mark.parametrize(
    ("case", "mode"), [*((case, "exact") for case in BROKEN), ("a picture that does not decode", "fast")]
)
def test_archives_that_do_not_fit(layouts: ModuleType, tmp_path: Path, tree: Tree, case: str, mode: str) -> None:
    change, message = BROKEN[case]
    images = made(layouts, tmp_path, change(tree, layouts), image_mode=mode, store_size=16, image_size=16)
    with pytest.raises(BenchmarkError, match=message):
        images.prepare()
    nothing_is_kept(images)


def test_a_list_names_a_picture_that_is_not_there(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    whole = made(layouts, tmp_path, tree)
    layouts.unpack(tmp_path / "mine", without(tree, f"{FIRST}/art_0"))
    type(whole).image_count -= 1  # type: ignore[misc]
    with pytest.raises(BenchmarkError, match=f"lacks 1 pictures that the split lists name: '{FIRST}/art_0.jpg'"):
        whole.prepare(given=[tmp_path / "mine"])


def test_a_picture_that_no_list_names(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    whole = made(layouts, tmp_path, tree)
    layouts.unpack(tmp_path / "mine", {**tree, f"imagenet-r/{FIRST}/toy_9.jpg": b"?"})
    with pytest.raises(BenchmarkError, match="holds 401 pictures and the original 400"):
        whole.prepare(given=[tmp_path / "mine"])
    type(whole).image_count += 1  # type: ignore[misc]
    with pytest.raises(BenchmarkError, match=f"do not name 1 pictures of .*: '{FIRST}/toy_9.jpg'"):
        whole.prepare(given=[tmp_path / "mine"])


def test_an_unpacked_folder_is_taken_and_said_to_be_unverified(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    (tmp_path / "web" / "imagenet-r.tar").unlink()
    layouts.unpack(tmp_path / "mine", tree)
    (tmp_path / "mine" / "imagenet-r" / ".DS_Store").write_bytes(b"?")
    said: list[str] = []
    images.prepare(said.append, given=[tmp_path / "mine" / "imagenet-r"])
    assert any("no published digest covers" in line for line in said)
    assert len(images.image_set("train").labels) == 200


LISTS = {
    "data:\n- data/imagenet-r/n02165456/art_0.jpg\ntargets:\n- 1\n": "line 4: id 1 stands for class n03594945",
    "data:\n- data/imagenet-r/n02165456/art_0.jpg\ntargets:\n- 200\n": "id 200 stands for none of the 200 classes",
    "data:\n- data/imagenet-r/n02165456/art_0.jpg\ntargets:\n- -1\n": "line 4: '- -1' is not what",
    "data:\n- data/imagenet-r/../art_0.jpg\ntargets:\n- 0\n": "line 2: .* is not what a split list holds",
    "data:\n- data/imagenet-r/n02165456/art_0.jpg\ntargets:\n": "lists 1 pictures and 0 targets",
    "targets:\n- 0\n": "is not a split list",
    "": "is not a split list",
}


@pytest.mark.parametrize("text", LISTS)
def test_split_lists_are_read_strictly(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(BenchmarkError, match=LISTS[text]):
        read_split_list(tmp_path / "list.yaml", listed_wnids())


def test_the_reader_agrees_with_yaml(layouts: ModuleType, tmp_path: Path) -> None:
    import yaml

    entries = [(f"imagenet-r/{wnid}/art_{label}.jpg", label) for label, wnid in enumerate(listed_wnids())]
    (tmp_path / "list.yaml").write_bytes(layouts.split_list(entries))
    loaded = yaml.safe_load((tmp_path / "list.yaml").read_text())
    found = read_split_list(tmp_path / "list.yaml", listed_wnids())
    assert [f"data/imagenet-r/{name}" for name, _ in found] == loaded["data"]
    assert [listed_wnids().index(wnid) for _, wnid in found] == loaded["targets"]


# Training images of each of ten tasks (SMoPE card, 11 g; VQ-Prompt card, 5), from the lists' counts of each class.
PER_TASK = {
    ("shuffled", 0): [2154, 2372, 2289, 2304, 2593, 2246, 2551, 2293, 2442, 2756],
    ("natural_first", 0): [2166, 2655, 2292, 2799, 2463, 2624, 2209, 2539, 2195, 2058],
    ("natural_first", 1): [2230, 2393, 2949, 2075, 2296, 2909, 2397, 2171, 2204, 2376],
}


@pytest.mark.parametrize(("rule", "seed"), PER_TASK)
def test_training_images_of_each_task(tmp_path: Path, rule: str, seed: int) -> None:
    order = ImageNetR(ImageNetRConfig.model_validate({"class_order": rule}), tmp_path).class_order(seed)
    train = COUNTS["train"]
    assert [sum(train[i] for i in order[at : at + 20]) for at in range(0, 200, 20)] == PER_TASK[rule, seed]


def test_counts_of_the_published_lists() -> None:
    assert [sum(COUNTS[split]) for split in ("train", "test")] == [24_000, 6_000]
    assert [(min(COUNTS[split]), max(COUNTS[split])) for split in ("train", "test")] == [(38, 354), (5, 81)]


def test_what_is_said_without_images(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError) as said:
        ImageNetR(ImageNetRConfig(), tmp_path).image_set("train")
    wanted = (
        "data prepare imagenet_r",
        "2.2 GB",
        "berkeley",
        "GT-RIPL",
        "mirrors: ",
        "imagenet-r/<wnid>",
        "--from PATH",
    )
    assert all(part in str(said.value) for part in wanted)
