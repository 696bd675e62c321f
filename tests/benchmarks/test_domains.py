"""Domain-incremental streams: from glyphs in renditions, and from folders of domains; what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.benchmarks.datasets.folders.domain_folder import DomainFolder, DomainFolderConfig
from smope_bench.benchmarks.datasets.glyph_domains import GlyphDomains, GlyphDomainsConfig
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import Stream, build_stream
from smope_bench.harness.conformance.fixtures import domain_stream

COUNTS = {"photo": {"cat": 5, "dog": 5}, "sketch": {"cat": 5, "dog": 5}, "clipart": {"cat": 5, "dog": 5}}
"""Pictures of each class of each domain."""


def written(root: Path, counts: Mapping[str, Mapping[str, int]]) -> Path:
    """A folder of pictures of one colour each, no two alike. The keys may be paths such as ``photo/train``."""
    shade = 0
    for domain, classes in counts.items():
        for name, count in classes.items():
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(count):
                shade += 1
                Image.new("RGB", (8, 8), (shade, len(domain), len(name))).save(folder / f"{number}.png")
    return root


def opened(path: Path, **settings: object) -> DomainFolder:
    benchmark = DomainFolder(DomainFolderConfig(path=str(path), image_size=8, **settings), path.parent / "data")  # pyright: ignore[reportArgumentType]
    benchmark.prepare()
    return benchmark


def stream_of(path: Path, seed: int = 0, **settings: object) -> Stream:
    return build_stream(opened(path, **settings), seed)


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> GlyphDomains:
    config = GlyphDomainsConfig(classes=3, train_per_class=3, test_per_class=2, image_size=16)
    benchmark = GlyphDomains(config, tmp_path_factory.mktemp("glyphs"))
    benchmark.prepare()
    return benchmark


def test_every_task_is_a_domain_with_the_same_classes(glyphs: GlyphDomains) -> None:
    stream = build_stream(glyphs, 0)
    assert stream.protocol == "domain" and sorted(stream.domains) == sorted(glyphs.domain_names)
    assert [task.domain for task in stream.tasks] == list(stream.domains)
    assert all(task.classes == range(3) and task.names == glyphs.class_names for task in stream.tasks)
    assert all(sorted(task.train.labels) == sorted(list(range(3)) * 3) for task in stream.tasks)
    assert [len(view) for view in stream.tests] == [6] * 6
    rows = np.concatenate([task.train.rows for task in stream.tasks])
    assert len(set(rows.tolist())) == 6 * 9
    assert stream.tests_after(stream.tasks[0]) == dict(enumerate(stream.tests)), "domains to come can be measured"
    assert stream.merged().tasks[0].classes == range(3) and len(stream.merged().tasks[0].train) == 54


def test_no_picture_is_in_two_domains(glyphs: GlyphDomains) -> None:
    images = np.concatenate([np.array(glyphs.image_set(split).images[:]) for split in ("train", "test")])  # pyright: ignore[reportArgumentType]
    assert len({image.tobytes() for image in images}) == len(images) == 6 * 3 * 5


def test_the_seed_the_setting_or_a_list_orders_the_domains(glyphs: GlyphDomains) -> None:
    def order(seed: int, **settings: object) -> tuple[str, ...]:
        config = GlyphDomainsConfig.model_validate(glyphs.config.model_dump(exclude={"tasks"}) | settings)
        return build_stream(GlyphDomains(config, glyphs.root), seed).domains

    assert order(0) == order(0) != order(1)
    assert order(0, domain_order="natural") == order(3, domain_order="natural") == glyphs.domain_names
    assert order(0, domains="outline,plain") == order(1, domains=["outline", "plain"]) == ("outline", "plain")
    assert build_stream(glyphs, 0).split_hash != build_stream(glyphs, 1).split_hash


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"domains": "outline,plane"}, "there is no domain 'plane'; the domains are plain, outline"),
        ({"tasks": 3}, "tasks=3 but a task is a domain and there are 6"),
        ({"domains": "outline"}, "at least two domains"),
        ({"domains": "plain,plain"}, "domain 'plain' is named twice"),
        ({"class_order": "shuffled"}, "domains arrive, not classes; order the domains"),
        ({"split": "1,2"}, "a task is a domain here"),
    ],
)
def test_settings_that_fit_no_domains_are_refused(
    glyphs: GlyphDomains, settings: dict[str, object], error: str
) -> None:
    with pytest.raises((BenchmarkError, ValidationError), match=error):
        config = GlyphDomainsConfig.model_validate(glyphs.config.model_dump(exclude={"tasks"}) | settings)
        build_stream(GlyphDomains(config, glyphs.root), 0)


def test_a_folder_of_domains_is_split_by_seed_and_found_again_by_its_content(tmp_path: Path) -> None:
    benchmark = opened(written(tmp_path / "mine", COUNTS), holdout=0.25)
    stream = build_stream(benchmark, 0)
    assert set(stream.domains) == set(COUNTS) and stream.class_names == ("cat", "dog")
    assert [(len(task.train), len(task.validation), len(task.test)) for task in stream.tasks] == [(6, 2, 2)] * 3
    pinned = benchmark.pinned()
    assert (pinned.path, pinned.tasks) == (None, 3) and pinned.content
    again = DomainFolder(DomainFolderConfig(**pinned.model_dump()), benchmark.root)
    assert build_stream(again, 0).split_hash == stream.split_hash
    other = stream_of(tmp_path / "mine", holdout=0.25, split_seed=1)
    assert other.split_hash != stream.split_hash


def test_another_domain_does_not_change_the_split_of_the_others(tmp_path: Path) -> None:
    def tested(path: Path) -> set[bytes]:
        stream = stream_of(path)
        views = [task.test for task in stream.tasks if task.domain in ("photo", "sketch")]
        return {np.asarray(view.take(slice(None))[0]).tobytes() for view in views}

    few = written(tmp_path / "few", {name: COUNTS[name] for name in ("photo", "sketch")})
    assert tested(few) == tested(written(tmp_path / "more", COUNTS))


def test_domains_with_their_own_train_and_test(tmp_path: Path) -> None:
    counts = {f"{d}/{s}": {"cat": n, "dog": n} for d in ("a", "b") for s, n in (("train", 3), ("test", 1))}
    stream = stream_of(written(tmp_path / "mine", counts))
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(6, 2)] * 2


def test_a_domain_may_lack_classes_only_where_that_is_wanted(tmp_path: Path) -> None:
    path = written(tmp_path / "mine", {"a": {"cat": 4, "dog": 4}, "b": {"cat": 4, "owl": 4}})
    with pytest.raises(BenchmarkError, match=r"class 'owl' .* is in domain 'b' but not in 'a'.*class_subsets=true"):
        opened(path)
    stream = stream_of(path, class_subsets=True, domains="b,a")
    assert stream.class_names == ("cat", "owl", "dog")
    first, second = stream.tasks
    assert (first.classes, second.classes) == (range(2), range(3))
    assert set(second.train.labels.tolist()) == {0, 2}
    assert list(stream.tests_after(first)) == [0], "the second domain has a class that is not known yet"


@pytest.mark.parametrize(
    ("counts", "error"),
    [
        ({"a": {"cat": 3}}, "one domain, 'a'; a domain-incremental stream needs at least two"),
        ({"train": {"cat": 3}, "test": {"cat": 3}}, "give each domain its own train and test"),
        ({"a": {"cat": 3}, "b": {"cat": 1}}, "class 'cat' of domain 'b' has one image"),
        ({"a": {"cat": 3}, "b": {"cat": 0}}, r"class folder .*b/cat' is empty"),
        (
            {"a": {"cat": 3}, "b/train": {"cat": 3}, "b/test": {"cat": 3}},
            "domain 'b' .* has train and test but domain 'a'",
        ),
    ],
)
def test_folders_that_are_no_domains_are_refused(tmp_path: Path, counts: dict[str, dict[str, int]], error: str) -> None:
    with pytest.raises(BenchmarkError, match=error):
        opened(written(tmp_path / "mine", counts))
    assert not list((tmp_path / "data").rglob("*.images")), "nothing is left half-written"


def test_a_file_beside_the_domains_is_refused_by_that_word(tmp_path: Path) -> None:
    written(tmp_path / "mine", {"a": {"cat": 3}, "b": {"cat": 3}})
    (tmp_path / "mine" / "more.png").write_bytes(b"mine")
    with pytest.raises(BenchmarkError, match=r"more.png' lies beside the domain folders"):
        opened(tmp_path / "mine")


def test_a_picture_in_two_domains_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "mine", COUNTS)
    (path / "sketch/cat/copy.png").write_bytes((path / "photo/cat/0.png").read_bytes())
    with pytest.raises(BenchmarkError, match=r"sketch/cat/copy.png' of domain 'sketch' is the same picture as .*photo"):
        opened(path)


def test_domains_are_read_as_other_folders_are(tmp_path: Path) -> None:
    counts = {f"{d}/{s}": {"10": n, "9": n} for d in ("a", "b") for s, n in (("Train", 3), ("val", 1))}
    path = written(tmp_path / "mine", counts)
    for junk in ("README.md", "a/desktop.ini", "b/val/9/Thumbs.db"):
        (path / junk).write_text("x")
    benchmark = opened(path)
    assert benchmark.class_names == ("9", "10")
    assert [(len(task.train), len(task.test)) for task in build_stream(benchmark, 0).tasks] == [(6, 2)] * 2
    notes = "; ".join(benchmark.notes())
    assert "'README.md'" in notes and "domain 'a': val/ is tested on" in notes
    copy = path / "b/val/9/copy.png"
    copy.write_bytes((path / "b/Train/10/0.png").read_bytes())
    with pytest.raises(BenchmarkError, match=r"copy.png' is the same picture as .*Train/10/0.png'.*repeats=allow"):
        opened(path)
    assert "1 of 5 test pictures" in "; ".join(opened(path, repeats="allow").notes())


def test_domains_in_two_unicode_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="one name in two Unicode forms"):
        opened(written(tmp_path / "mine", {"caf\u00e9": {"cat": 3}, "cafe\u0301": {"cat": 3}}))


def test_classes_that_arrive_late_are_numbered_last(tmp_path: Path) -> None:
    stream = domain_stream(tmp_path)
    assert [task.classes.stop for task in stream.tasks] == [5, 6, 6]
    assert set(stream.tasks[2].train.labels.tolist()) == {0, 1, 2, 3, 5}
    assert [list(stream.tests_after(task)) for task in stream.tasks] == [[0], [0, 1, 2], [0, 1, 2]]
    assert isinstance(stream.config, BenchmarkConfig) and stream.merged().tasks[0].classes == range(6)
