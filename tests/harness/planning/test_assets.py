"""``data prepare`` and ``data verify``, over a benchmark and a backbone that download from a folder beside them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from smope_bench import run_all
from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, ProgressCallback, silent
from smope_bench.benchmarks.datasets.folders.image_folder import ImageFolder, ImageFolderConfig
from smope_bench.benchmarks.download.fetch import Remote, downloads_folder, fetch
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cache import cache_folder
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark
from smope_bench.harness.conformance.fixtures import ColouredNoise
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.assets import kind_of, prepare_named, supply_weights, verify_named
from smope_bench.harness.planning.settings import parse_setting
from smope_bench.harness.registry import registry
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.methods.common.backbone.backbones import Backbone, WeightsMissingError
from smope_bench.methods.common.errors import MethodError

PIXELS = bytes(range(48))


class Fetched(CachedBenchmark[Any]):
    """Two classes of one 4 px image a split, all of them the same downloaded bytes."""

    name = "fetched"
    card = BenchmarkCard("Fetched", "here", "none", "one file")
    remotes: ClassVar[tuple[Remote, ...]] = ()
    class_names = ("a", "b")  # type: ignore[assignment]

    def recipe(self) -> dict[str, Any]:
        return {"benchmark": self.name, "side": self.config.image_size}

    def fill(self, writer: Any, progress: ProgressCallback) -> None:
        file = fetch(self.remotes[0], downloads_folder(self.root, self.name), self.given, progress, self.preparation)
        image = np.frombuffer(file.read_bytes(), dtype=np.uint8).reshape(1, 4, 4, 3)
        for split in SPLITS:
            for label in range(2):
                writer.add(split, image, np.array([label], dtype=np.int64))


WEIGHTED_SHA256 = hashlib.sha256(PIXELS).hexdigest()


@dataclass(frozen=True)
class Weighted(Backbone):
    """A backbone whose weights are one downloaded file."""

    url: str
    name: str = "weighted"
    root: Path | None = None
    files: tuple[str, ...] = ()
    digest: str | None = None

    def at(self, root: Path) -> Weighted:
        return replace(self, root=root)

    @property
    def file(self) -> Path:
        assert self.root is not None
        return self.root / "weights" / "weighted.bin"

    summary: str = "one downloaded file"
    is_random: bool = False

    @property
    def sha256(self) -> str:
        return WEIGHTED_SHA256

    def load(self) -> Any:
        raise NotImplementedError

    def prepare(self, fetch: Any, given: Sequence[Path] = (), progress: ProgressCallback = silent) -> None:
        fetch(
            name=self.file.name,
            urls=(self.url,),
            digest=f"sha256:{self.sha256}",
            folder=self.file.parent,
            given=given,
            progress=progress,
        )

    def verify(self) -> Path:
        if not self.file.exists():
            raise WeightsMissingError(
                "weights of backbone 'weighted' are missing: run `smope-bench data prepare weighted`"
            )
        if self.file.read_bytes() != PIXELS:
            raise MethodError(f"weights of backbone 'weighted': {self.file} has changed")
        return self.file


@pytest.fixture
def published(tmp_path: Path) -> Path:
    file = tmp_path / "published.bin"
    file.write_bytes(PIXELS)
    return file


@pytest.fixture
def registries(published: Path, monkeypatch: pytest.MonkeyPatch) -> Registries:
    digest = f"md5:{hashlib.md5(PIXELS).hexdigest()}"
    monkeypatch.setattr(Fetched, "remotes", (Remote("images.bin", (published.as_uri(),), digest, 48),))
    made = open_registries()
    made.benchmarks.add("fetched", "tests", Fetched)
    made.benchmarks.add(ColouredNoise.name, "tests", ColouredNoise)
    made.backbones.add("weighted", "tests", Weighted(published.as_uri()))
    monkeypatch.setattr(registry, "open_registries", lambda plugins=(): made)
    return made


def prepare(registries: Registries, root: Path, *settings: str, given: Sequence[Path] = ()) -> Any:
    parsed = [parse_setting(f"benchmark.{text}") for text in ("tasks=2", *settings)]
    return prepare_named("fetched", registries, root, given, settings=parsed)


def states(rows: Sequence[Any]) -> list[tuple[str, str]]:
    return [(row.what.split()[0], row.state) for row in rows]


def test_a_name_is_a_benchmark_or_a_backbone(registries: Registries) -> None:
    assert (kind_of("digits", registries), kind_of("tiny", registries)) == ("benchmark", "backbone")
    for typed, meant in (("digit", "digits"), ("tinny", "tiny")):
        with pytest.raises(UserError, match=f"'{typed}' is neither a benchmark nor a backbone; did you mean '{meant}'"):
            kind_of(typed, registries)


def test_a_benchmark_is_prepared_and_verified(registries: Registries, tmp_path: Path) -> None:
    root = tmp_path / "data"
    done = prepare(registries, root)
    assert (done.where, done.images, done.kind) == (root / "fetched", {"train": 2, "test": 2}, "benchmark")
    assert done.bytes > 5 * 48 and len(done.content) == 64
    rows = verify_named("fetched", registries, root)
    assert states(rows) == [("images", "intact"), ("download", "intact")]
    assert prepare(registries, root, "image_size=64").content == done.content
    assert states(verify_named("fetched", registries, root)) == [*[("images", "intact")] * 2, ("download", "intact")]


def test_verifying_names_what_is_bad(registries: Registries, tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert states(verify_named("fetched", registries, root)) == [("images", "missing")]
    prepare(registries, root)
    pixels = next(root.glob("fetched/*/test.images"))
    pixels.write_bytes(bytes(96))
    download = root / "fetched" / "downloads" / "images.bin"
    download.write_bytes(b"altered")
    cache, file = verify_named("fetched", registries, root)
    assert cache.state == file.state == "damaged"
    assert cache.remedy == (
        f"test.images does not fit its manifest: delete {pixels.parent} and call"
        f" `smope-bench data prepare fetched --set benchmark.tasks=2 --data {root}`"
    )
    assert f"delete {download} and call" in file.remedy and "expected md5:" in file.remedy
    (pixels.parent / "manifest.json").write_text("[]")
    assert verify_named("fetched", registries, root)[0].remedy.startswith("manifest.json does not fit")
    prepare(registries, root)
    assert states(verify_named("fetched", registries, root)) == [("images", "intact"), ("download", "intact")]


def test_a_damaged_store_is_made_again_by_the_command_with_its_own_settings(
    registries: Registries, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my data"
    prepare(registries, root)
    prepare(registries, root, "image_size=24")
    before = sorted(root.glob("fetched/*/manifest.json"))
    for manifest in before:
        (manifest.parent / "test.images").write_bytes(b"")
    for row in verify_named("fetched", registries, root)[:2]:
        folder, call = re.findall(r"delete (.*) and call `smope-bench (.*)`", row.remedy)[0]
        shutil.rmtree(folder)
        assert run_all.main(shlex.split(call)) == 0
    assert states(verify_named("fetched", registries, root))[:2] == [("images", "intact")] * 2
    assert sorted(root.glob("fetched/*/manifest.json")) == before
    capsys.readouterr()


def test_settings_that_were_not_noted_are_not_made_up(registries: Registries, tmp_path: Path) -> None:
    for settings in ((), ("image_size=24",)):
        prepare(registries, tmp_path, *settings)
    for use in tmp_path.glob("fetched/*/use.json"):
        use.write_text(json.dumps({"from": None, "remarks": []}))
        (use.parent / "test.images").write_bytes(b"")
    usual = tmp_path / "fetched" / cache_folder(Path(), {"benchmark": "fetched", "side": 32}).name
    remedies = {row.what: row.remedy for row in verify_named("fetched", registries, tmp_path) if row.state == "damaged"}
    assert remedies.pop(f"images in {usual}").endswith(f"call `smope-bench data prepare fetched --data {tmp_path}`")
    assert [remedy.split("; ")[1] for remedy in remedies.values()] == [
        "its settings are not known, and a run that needs its images makes them again"
    ]
    prepare(registries, tmp_path, "image_size=24")
    assert sum("settings" in json.loads(use.read_text()) for use in tmp_path.glob("fetched/*/use.json")) == 1


def test_a_damaged_store_of_a_users_pictures_is_made_again_from_their_folder(tmp_path: Path) -> None:
    pictures, root, registries = tmp_path / "my pictures", tmp_path / "data", open_registries()
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (pictures / place).mkdir(parents=True)
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(pictures / place / "1.png")
    (missing,) = verify_named("imagefolder", registries, root)
    assert missing.remedy == f"call `smope-bench data prepare imagefolder --from FOLDER --data {root}`"
    settings = [parse_setting(f"benchmark.{text}") for text in ("keep=square", "image_size=8")]
    prepare_named("imagefolder", registries, root, [pictures], settings=settings)
    for file in root.rglob("test.images"):
        file.write_bytes(b"")
    (damaged,) = verify_named("imagefolder", registries, root)
    folder, call = re.findall(r"delete (.*) and call `smope-bench (.*)`", damaged.remedy)[0]
    shutil.rmtree(folder)
    assert run_all.main(shlex.split(call)) == 0 and states(verify_named("imagefolder", registries, root)) == [
        ("images", "intact")
    ]
    assert Path(folder).is_dir(), "the same store"


def test_a_pinned_file_is_held_to_its_pin(registries: Registries, tmp_path: Path) -> None:
    prepare(registries, tmp_path)
    folder = tmp_path / "fetched" / "downloads"
    (folder / "extra").write_bytes(b"1")
    (folder / "extra.pin").write_text(hashlib.sha256(b"1").hexdigest())
    assert states(verify_named("fetched", registries, tmp_path)) == [
        ("images", "intact"),
        *[("download", "intact")] * 2,
    ]
    (folder / "extra").write_bytes(b"2")
    assert "pinned is sha256:" in verify_named("fetched", registries, tmp_path)[1].remedy


def test_what_the_user_has_takes_the_place_of_a_download(
    registries: Registries, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = published.rename(tmp_path / "mine.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchmarkError, match=r"images\.bin could not be downloaded"):
        prepare(registries, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("manifest.json")), "nothing half-made may be trusted later"
    prepare(registries, tmp_path / "data", given=[Path("mine.bin")])
    assert mine.read_bytes() == PIXELS and not (tmp_path / "data/fetched/downloads/images.bin").exists()
    with pytest.raises(UserError, match="--from 'absent' does not exist"):
        prepare(registries, tmp_path / "data", given=[Path("absent")])


def test_a_benchmark_without_files_has_nothing_to_verify(registries: Registries, tmp_path: Path) -> None:
    assert states(verify_named(ColouredNoise.name, registries, tmp_path)) == [("images,", "intact")]


def test_a_backbone_is_prepared_and_verified(registries: Registries, tmp_path: Path) -> None:
    (missing,) = verify_named("weighted", registries, tmp_path)
    assert missing.state == "missing"
    assert missing.remedy.endswith(f"run `smope-bench data prepare weighted --data {tmp_path}`")
    done = prepare_named("weighted", registries, tmp_path)
    assert (done.where, done.bytes, done.content) == (tmp_path / "weights" / "weighted.bin", 48, WEIGHTED_SHA256)
    assert verify_named("weighted", registries, tmp_path)[0].state == "intact"
    done.where.write_bytes(b"altered")  # type: ignore[union-attr]
    (damaged,) = verify_named("weighted", registries, tmp_path)
    assert damaged.state == "damaged" and "has changed" in damaged.remedy
    assert verify_named("random", registries, tmp_path)[0].what == "random weights, kept in no file"


def test_downloads_of_weights_are_read_through(registries: Registries, tmp_path: Path) -> None:
    """The published file beside the prepared one: against its digest, or against the pin of its first use."""
    file = tmp_path / "weights" / "downloads" / "published.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(PIXELS)
    for digest, kept in ((f"sha256:{WEIGHTED_SHA256}", None), (None, WEIGHTED_SHA256)):
        if kept:
            file.with_name("published.pth.pin").write_text(kept)
        backbone = replace(Weighted("nowhere"), name=f"known {digest}", files=("published.pth",), digest=digest)
        registries.backbones.add(backbone.name, "tests", backbone)
        assert states(verify_named(backbone.name, registries, tmp_path)) == [
            ("weights", "missing"),
            ("download", "intact"),
        ]
        file.write_bytes(b"altered")
        damaged = verify_named(backbone.name, registries, tmp_path)[1]
        assert damaged.state == "damaged" and f"delete {file} and call `smope-bench data prepare" in damaged.remedy
        file.write_bytes(PIXELS)


def test_a_planner_is_supplied_with_weights(registries: Registries, tmp_path: Path) -> None:
    told: list[str] = []
    backbone = registries.backbones.load("weighted").at(tmp_path)
    supply_weights(tmp_path, told.append)(backbone)
    assert backbone.verify().read_bytes() == PIXELS and told
    with pytest.raises(UserError, match=r"weights of backbone 'weighted': weighted\.bin could not be downloaded"):
        supply_weights(tmp_path / "other")(Weighted((tmp_path / "absent").as_uri()))


def command(*arguments: str) -> int:
    return run_all.main(["data", *arguments])


def test_the_commands(registries: Registries, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(tmp_path)]
    assert command("prepare", "fetched", "weighted", *data, "--set", "benchmark.tasks=2") == 0
    out = capsys.readouterr().out
    assert "images.bin: downloading from file:" in out
    assert f"fetched: ready in {tmp_path / 'fetched'}, 2 train images, 2 test images, " in out
    assert f"weighted: ready in {tmp_path / 'weights' / 'weighted.bin'}" in out and f"content {WEIGHTED_SHA256}" in out
    assert command("verify", "fetched", "weighted", *data) == 0
    assert capsys.readouterr().out.count("✓") == 3
    (tmp_path / "weights" / "weighted.bin").write_bytes(b"altered")
    assert command("verify", "fetched", "weighted", *data, "--json") == 1
    told = capsys.readouterr()
    assert [row["state"] for row in json.loads(told.out)] == ["intact", "intact", "damaged"]
    assert told.err.startswith("failed: weighted: weights: damaged: ") and told.err.count("\n") == 1


def test_commands_in_messages_have_the_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(plugins: Sequence[Path]) -> Registries:
        raise MethodError(
            f"not prepared ({len(plugins)}): run `smope-bench data prepare x --from FILE`, or `smope-bench data verify x`"
        )

    monkeypatch.setattr(registry, "open_registries", refuse)
    assert command("verify", "x", "--plugin", "a b.py", f"--data={tmp_path}", "--plugin=c.py") == 2
    more = f"--plugin 'a b.py' --plugin c.py --data {tmp_path}"
    said = f"run `smope-bench data prepare x --from FILE {more}`, or `smope-bench data verify x {more}`"
    assert said in capsys.readouterr().err
    assert command("verify", "x") == 2
    assert "`smope-bench data prepare x --from FILE`, or `smope-bench data verify x`" in capsys.readouterr().err


def test_a_download_that_fails_names_the_command_of_this_configuration(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fetched, "remotes", (Remote("images.bin", (), f"sha256:{WEIGHTED_SHA256}"),))
    settings = [parse_setting("benchmark.tasks=2"), parse_setting("benchmark.image_size=24")]
    with pytest.raises(BenchmarkError) as failed:
        prepare_named("fetched", registries, tmp_path, settings=settings)
    (call,) = re.findall("`(.*) --from FILE`", str(failed.value))
    settings = "--set benchmark.tasks=2 --set benchmark.image_size=24"
    assert call == f"smope-bench data prepare fetched {settings} --data {tmp_path}"
    (tmp_path / "published.bin").unlink()
    with pytest.raises(UserError) as failed:
        prepare_named("weighted", registries, tmp_path)
    assert f"`smope-bench data prepare weighted --data {tmp_path} --from FILE`" in str(failed.value)


def test_images_that_are_not_there_are_named_with_the_settings_of_the_run(
    registries: Registries, tmp_path: Path
) -> None:
    config = Fetched.Config(tasks=2, image_size=24)
    with pytest.raises(BenchmarkError) as missing:
        Fetched(config, tmp_path).image_set("train")
    call = re.findall("`(.*)`", str(missing.value))[0]
    assert run_all.main(shlex.split(call)[1:]) == 0
    assert Fetched(config, tmp_path).is_prepared()


MISTAKES = [
    (["prepare", "fetched", "digit"], "'digit' is neither a benchmark nor a backbone; did you mean 'digits'?"),
    (["verify", "digit"], "did you mean 'digits'?"),
    (["prepare", "fetched", "--set", "schedule.epochs=1"], "only benchmark.FIELD=VALUE has a meaning here"),
    (["prepare", "fetched", "--set", "benchmark.task=1"], "benchmark.task is not a setting; did you mean 'tasks'?"),
    (["prepare", "fetched", "--set", "benchmark.tasks=3"], "2 classes cannot be split into 3 tasks"),
    (["prepare", "fetched", "--from", "absent"], "--from 'absent' does not exist"),
    (["prepare", "fetched", "weighted", "--from", "."], "--from belongs to one name"),
    (["prepare"], "Missing argument"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, registries: Registries, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tmp_path / "data")] if arguments != ["prepare"] else []
    assert command(*arguments, *data) == 2
    told = capsys.readouterr().err
    assert words in told and told.startswith("error: ") and told.count("\n") == 1


def test_options_only_grow() -> None:
    import typer

    group = typer.main.get_command(run_all.make_app(run_all.default)).commands["data"]  # type: ignore[attr-defined]
    surface = {"prepare": {"--from", "--data", "--set", "--plugin"}, "verify": {"--data", "--json", "--plugin"}}
    for name, options in surface.items():
        assert options <= {flag for parameter in group.commands[name].params for flag in parameter.opts}


def pictures(folder: Path, classes: int, shade: int = 0) -> Path:
    for label in range(classes):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (20 * label, number, shade)).save(folder / str(label) / f"{number}.png")
    return folder


def data(*words: str, root: Path) -> int:
    return run_all.main(["data", *words, "--data", str(root)])


@pytest.mark.parametrize(("classes", "tasks"), [(5, ""), (4, "benchmark.tasks=4"), (11, "benchmark.split=3,2x4")])
def test_a_folder_of_pictures_is_prepared_and_the_command_that_is_printed_plans(
    classes: int, tasks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "my pictures", classes)
    assert data("prepare", "imagefolder", "--from", str(folder), root=tmp_path / "data") == 0
    printed = capsys.readouterr().out
    words = shlex.split(printed.splitlines()[-1])
    words = words[words.index("run") :]
    assert words[-2:] == ["--data", str(tmp_path / "data")]
    assert "note: the folder has no test part" in printed and tasks in printed.splitlines()[-1]
    assert run_all.main(["plan", *words[1:], "--methods", "ncm", "--seeds", "0"]) == 0


def test_a_folder_that_is_none_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for given, expected in (
        (["--from", str(empty)], "empty' has no classes"),
        (["--from", str(tmp_path / "no")], "does not exist"),
        (["--from", str(empty), "--from", str(tmp_path)], "one folder"),
        ([], "path=FOLDER"),
    ):
        assert data("prepare", "imagefolder", *given, root=tmp_path / "data") == 2
        assert expected in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_stores_are_listed_bounded_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    assert data("list", root=root) == 0 and "nothing is in" in capsys.readouterr().out
    for state in range(4):
        folder = pictures(tmp_path / "mine", 5, shade=state)
        assert data("prepare", "imagefolder", "--from", str(folder), root=root) == 0
    assert "images of earlier states of the folder were removed" in capsys.readouterr().out
    assert data("list", "--json", root=root) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["match"] for row in rows) == ["", "folder has changed"]
    assert {(row["images"], Path(row["source"]).name) for row in rows} == {(10, "mine")}
    assert data("list", root=root) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    command = command[command.index("data") :]
    old, present = sorted(rows, key=lambda row: row["match"] == "")
    before = (Path(present["folder"]) / "manifest.json").read_bytes()
    assert run_all.main(command) == 0
    assert f"removed {old['name']}" in capsys.readouterr().out
    assert not Path(old["folder"]).exists() and (Path(present["folder"]) / "manifest.json").read_bytes() == before
    assert data("remove", "imagefolders", root=root) == 2
    assert "'imagefolders' is not prepared" in (said := capsys.readouterr().err) and "imagefolder" in said
    assert data("remove", "imagefolder", root=root) == 0 and not list(root.rglob("*.images"))


def test_images_that_a_run_has_open_are_not_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, folder = tmp_path / "data", pictures(tmp_path / "mine", 5)
    benchmark = ImageFolder(ImageFolderConfig(path=str(folder), image_size=8), root)
    benchmark.prepare()
    images = benchmark.image_set("test")
    assert data("remove", "imagefolder", root=root) == 2
    assert "is in use by a run" in capsys.readouterr().err
    assert np.asarray(images.images[:]).shape == (5, 8, 8, 3)
    del images
    assert data("remove", "imagefolder", root=root) == 0


def test_all_that_the_data_folder_holds_is_listed_and_can_be_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    held = {
        "cifar100/downloads/cifar-100-python.tar.gz": 1000,
        "cifar100/downloads/cifar-100-python.tar.gz.pin": 64,
        "cifar100/0123456789abcdef/manifest.json": 2,
        "cifar100/.lock": 0,
        "weights/vit.safetensors": 500,
        "weights/vit.json": 20,
        "weights/downloads/vit.bin": 700,
        "queries/abc/train-00000.queries": 300,
    }
    for name, size in held.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    assert data("list", "--json", root=root) == 0
    rows = {row["name"]: (row["kind"], row["bytes"]) for row in json.loads(capsys.readouterr().out)}
    assert rows == {
        "cifar100/0123456789abcdef": ("other", 2),
        "cifar100/downloads": ("downloads", 1064),
        "queries": ("features", 300),
        "weights/downloads": ("downloads", 700),
        "weights/vit": ("weights", 520),
    }
    assert data("list", root=root) == 0
    *shown, command = capsys.readouterr().out.splitlines()
    assert "2.6 kB in all; to remove one:" in shown[-1] and all(any(name in line for line in shown) for name in rows)
    words = shlex.split(command)
    assert run_all.main(words[words.index("data") :]) == 0
    for name in list(rows)[1:]:
        assert data("remove", name, root=root) == 0
    left = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    assert left == ["cifar100/.lock"]
    assert data("remove", "weights/vit", root=root) == 2
    assert "'weights/vit' is not prepared" in capsys.readouterr().err
