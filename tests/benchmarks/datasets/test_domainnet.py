"""``domainnet``, ``domainnet_classes`` and ``domainnet_200``: published lists over archives in their layout."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from smope_bench.benchmarks.datasets.published.domainnet import DOMAINS, DomainNet, DomainNet200, DomainNetClasses
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import build_stream

Tree = dict[str, bytes]
NAMES = ("aircraft_carrier", "airplane", "The_Eiffel_Tower")
SMALL = {"image_size": 32, "test_resize": None}


def published(layouts: ModuleType) -> Tree:
    """Six archives and twelve lists, three classes with one training and one test picture each in every domain."""
    tree: Tree = {}
    for number, domain in enumerate(DOMAINS):
        pictures = {
            f"{domain}/{name}/{domain}_{label:03d}_{row:06d}.jpg": layouts.jpeg((40 * label, 20 * number, 100 * row))
            for label, name in enumerate(NAMES)
            for row in range(3)  # the third is in no list
        }
        tree[f"{domain}.zip"] = layouts.packed_zip(pictures)
        for row, split in enumerate(("train", "test")):
            lines = [
                f"{picture} {int(picture.split('_')[-2])}" for picture in pictures if picture.endswith(f"{row}.jpg")
            ]
            tree[f"{domain}_{split}.txt"] = ("\n".join(lines) + "\n").encode()
    return tree


def made(layouts: ModuleType, tmp_path: Path, kind: type, tree: Tree, **config: object) -> DomainNet | DomainNetClasses:
    layouts.unpack(tmp_path / "web", tree)
    over = layouts.over(kind, {name: tmp_path / "web" / name for name in tree}, class_count=len(NAMES))
    return over(over.Config.model_validate(SMALL | config), tmp_path / "data")


def test_six_domains_are_six_tasks(layouts: ModuleType, tmp_path: Path) -> None:
    images = made(layouts, tmp_path, DomainNet, published(layouts), domain_order="natural")
    assert images.num_classes == 3 and images.task_sizes() == (3,) * 6, "known before the lists are"
    images.prepare()
    assert images.class_names == NAMES
    stream = build_stream(images, 0)
    assert stream.domains == DOMAINS and [len(task.train) for task in stream.tasks] == [3] * 6
    raw, labels = stream.tasks[4].test.take(slice(0, 3))
    pixels = stream.transforms.test(raw)
    assert labels.tolist() == [0, 1, 2]
    assert np.allclose(pixels.mean(dim=(2, 3))[:, 1] * 255, 80, atol=3), "of the fifth domain"
    assert np.allclose(pixels.mean(dim=(2, 3))[:, 2] * 255, 100, atol=3), "of the test lists"


def test_a_class_that_a_domain_lists_in_one_split_is_left_out_of_it_and_named(
    layouts: ModuleType, tmp_path: Path
) -> None:
    tree = published(layouts)
    tree["painting_train.txt"] = b"".join(tree["painting_train.txt"].splitlines(keepends=True)[:2])
    images = made(layouts, tmp_path, DomainNet, tree, domain_order="natural")
    images.prepare()
    assert [len(task.test) for task in build_stream(images, 0).tasks] == [3, 3, 2, 3, 3, 3]
    assert "1 pictures of painting/The_Eiffel_Tower are left out" in " ".join(images.notes())


def test_mixed_domains_are_classes(layouts: ModuleType, tmp_path: Path) -> None:
    images = made(layouts, tmp_path, DomainNetClasses, published(layouts), tasks=3)
    images.prepare()
    stream = build_stream(images, 0)
    assert stream.protocol == "class" and [len(task.train) for task in stream.tasks] == [6] * 3
    assert sorted(stream.class_names) == sorted(NAMES)
    other = made(layouts, tmp_path, DomainNet, published(layouts))
    assert other.downloads == images.downloads, "17 GB are not fetched twice"


def test_the_lists_of_200_classes_number_and_split_them(layouts: ModuleType, tmp_path: Path) -> None:
    tree = {name: data for name, data in published(layouts).items() if name.endswith(".zip")}
    ids = {"The_Eiffel_Tower": 0, "airplane": 1}
    for row, name in enumerate(("sdomain_train.txt", "sdomain_val.txt")):
        lines = [
            f"{domain}/{kind}/{domain}_{NAMES.index(kind):03d}_{row:06d}.jpg {label}"
            for kind, label in ids.items()
            for domain in reversed(DOMAINS)
        ]
        tree[name] = "\n".join(lines).encode()  # the real test list has no end of line at its end either
    images = made(layouts, tmp_path, DomainNet200, tree, tasks=2)
    images.class_count = 2  # type: ignore[misc]
    assert images.downloads == tmp_path / "data" / "domainnet" / "downloads"
    images.prepare()
    assert images.class_names == tuple(ids)
    stream = build_stream(images, 0)
    assert [len(task.train) for task in stream.tasks] == [len(task.test) for task in stream.tasks] == [6, 6]
    place = stream.class_order.index(0)
    raw, _ = stream.tasks[place].train.take(slice(0, 6))
    reds = stream.transforms.test(raw).mean(dim=(2, 3))[:, 0] * 255
    assert np.allclose(reds, 80, atol=3), "pictures of the third class, under the id of the list"
    assert images.source() != made(layouts, tmp_path / "other", DomainNetClasses, published(layouts)).source()


def test_the_real_lists_of_200_classes_are_known_by_hash() -> None:
    lists = [remote for remote in DomainNet200.remotes if remote.name.endswith(".txt")]
    assert [remote.name for remote in lists] == [one.name for one in DomainNet200.lists]
    assert all((remote.digest or "").startswith("sha256:") and "/3821f6a" in remote.urls[0] for remote in lists)
    assert DomainNet200.Config().tasks == 10 and sum(DomainNet200.published_counts or ()) == 67_982


BAD = {
    "a class id beyond the last": (b"clipart/airplane/clipart_001_000000.jpg 3\n", "line 1: .* an id below 3"),
    "another domain": (b"real/airplane/clipart_001_000000.jpg 1\n", "line 1: .* is not clipart/<class>/<file>"),
    "a picture twice": (b"clipart/airplane/a.jpg 1\n" * 2, "line 2: .* is listed twice"),
    "an id of two classes": (
        b"clipart/airplane/clipart_001_000000.jpg 1\nclipart/bat/b.jpg 1\n",
        "id 1 stands for 'airplane' elsewhere",
    ),
    "a picture that is lacking": (
        b"clipart/airplane/clipart_001_000000.jpg 1\nclipart/airplane/none.jpg 1\n",
        "lacks 1 listed pictures: 'clipart/airplane/none.jpg'",
    ),
    "no text": (b"\xff\xfe", "cannot be read as a list"),
}


@pytest.mark.parametrize("case", BAD)
def test_lists_that_do_not_fit_are_refused(layouts: ModuleType, tmp_path: Path, case: str) -> None:
    text, said = BAD[case]
    images = made(layouts, tmp_path, DomainNetClasses, {**published(layouts), "clipart_train.txt": text}, tasks=3)
    with pytest.raises(BenchmarkError, match=said):
        images.prepare()


def test_a_list_without_a_class_is_refused(layouts: ModuleType, tmp_path: Path) -> None:
    images = made(layouts, tmp_path, DomainNetClasses, published(layouts), tasks=4)
    images.class_count = 4  # type: ignore[misc]
    with pytest.raises(BenchmarkError, match="name 3 classes and not 4"):
        images.prepare()
    assert len(DomainNet.remotes) == 18
