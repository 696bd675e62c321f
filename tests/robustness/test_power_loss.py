"""States that a power loss can leave: of a few operations by hand, and in its short form of the product's own life."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from types import ModuleType

import pytest

from tests.forked import run_script  # pyright: ignore[reportMissingImports]

SCRIPT = Path(__file__).with_name("power_loss")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT)
    return importlib.import_module("file_calls")


@pytest.fixture
def disk(calls: ModuleType) -> ModuleType:
    return importlib.import_module("disk_states")


def trees(disk: ModuleType, operations: list[object], system: str) -> list[dict[str, bytes | None]]:
    """States after all of the operations."""
    pending = disk.Pending()
    for number, operation in enumerate(operations):
        pending.do(number, operation)
    return [dict(tree) for kind, tree in pending.draws(random.Random(0), 200) if kind == system]


def test_a_file_that_is_renamed_before_its_data_are_safe_may_be_empty_cut_or_zeros(calls, disk) -> None:
    begun = [calls.Names(((0, "new", 1),)), calls.Write(1, 0, b"x" * 600)]
    renamed = [*begun, calls.Names(((0, "new", None), (0, "old", 1)))]
    found = [tree["old"] for tree in trees(disk, renamed, "reordering") if "old" in tree]
    assert {b"", b"x" * 600, b"x" * 300, bytes(600), bytes(512) + b"x" * 88} <= set(found)
    assert {b"", b"x" * 300} <= {tree["old"] for tree in trees(disk, renamed, "ordered") if "old" in tree}
    assert not any({"new", "old"} <= tree.keys() for tree in trees(disk, renamed, "ordered"))


def test_what_was_synced_stays_and_its_name_only_with_its_folder(calls, disk) -> None:
    written = [calls.Names(((0, "new", 1),)), calls.Write(1, 0, b"data"), calls.Sync(1)]
    renamed = [*written, calls.Names(((0, "new", None), (0, "file", 1)))]
    for system in ("ordered", "reordering"):
        assert {tree["file"] for tree in trees(disk, renamed, system) if "file" in tree} == {b"data"}
    lost = [tree for tree in trees(disk, renamed, "reordering") if not tree]
    assert lost, "POSIX does not promise the name of a file that was synced"
    assert all(tree for tree in trees(disk, renamed, "ordered"))
    safe = [*renamed, calls.Sync(0), calls.Write(1, 4, b"more"), calls.Names(((0, "other", 2),))]
    for system in ("ordered", "reordering"):
        after = trees(disk, safe, system)
        assert len(after) > 2 and all((tree["file"] or b"").startswith(b"data") for tree in after)


def test_a_folder_that_was_synced_is_lost_with_its_name(calls, disk) -> None:
    made = [
        calls.Names(((0, "run", 1),), is_folder=True),
        calls.Names(((1, "result", 2),)),
        calls.Write(2, 0, b"data"),
        calls.Sync(2),
        calls.Sync(1),
        calls.Truncate(2, 2),
    ]
    assert {} in trees(disk, made, "reordering")
    kept = {frozenset(tree.items()) for tree in trees(disk, [*made, calls.Sync(0), calls.Truncate(2, 1)], "reordering")}
    assert kept == {frozenset({"run": None, "run/result": data}.items()) for data in (b"data", b"da", b"d")}


def test_calls_are_read_as_the_tracer_prints_them(calls, tmp_path: Path) -> None:
    def shown(text: str) -> str:
        return "".join(f"\\x{byte:02x}" for byte in text.encode())

    root, printed = tmp_path / "life", tmp_path / "printed"
    here, file, moved = shown(str(root)), shown(f"{root}/a b"), shown(f"{root}/c")
    log = tmp_path / "log"
    log.write_text(
        f'7 openat(AT_FDCWD<{here}>, "{shown("a b")}", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 3<{file}>\n'
        f'7 write(3<{file}>, "{shown("hello")}", 5 <unfinished ...>\n'
        f'8 write(1<{shown(str(printed))}>, "{shown("said")}", 4) = 4\n'
        f"7 <... write resumed>)            = 5\n"
        f'7 lseek(3<{file}>, 1, SEEK_SET)   = 1\n7 write(3<{file}>, "{shown("E")}", 1) = 1\n7 fsync(3<{file}>) = 0\n'
        f'7 rename("{shown("a b")}", "{shown("c")}") = 0\n7 mkdir("{shown("c")}", 0777) = -1 EEXIST (File exists)\n'
        f'7 unlink("{moved}") = 0\n7 write(3<{moved}>(deleted), "{shown("x")}", 1) = 1\n'
    )
    made = calls._Reader(root, printed).read(log)
    assert [type(one).__name__ for one in made] == ["Names", "Said", "Write", "Write", "Sync", "Names", "Names"]
    assert made[2].data == b"hello" and (made[3].offset, made[3].data) == (1, b"E")
    assert made[5].entries == ((0, "a b", None), (0, "c", 1)) and made[6].entries == ((0, "c", None),)
    log.write_text(f'7 symlink("{shown("x")}", "{moved}") = 0\n7 fallocate(3<{file}>, 0, 0, 9) = 0\n7 sync() = 0\n')
    with pytest.raises(RuntimeError, match="not modelled"):
        calls._Reader(root, printed).read(log)


def test_no_power_loss_makes_a_half_truth_or_loses_a_finished_run(calls, tmp_path: Path) -> None:
    if not calls.can_record(tmp_path):
        pytest.skip(calls.ABSENT_TRACER)
    options = ["--draws", "0", "--continued", "6", "--methods", "linear_probe", "--folder", str(tmp_path / "sweep")]
    status, figures = run_script(SCRIPT, options, tmp_path)
    assert figures["states_read"] > 1500 and figures["states_continued"] == 6 and figures["situations"] > 50
    assert figures["by_system"].keys() == {"ordered", "reordering"}
    assert figures["control"], "without fsyncs of folders, nothing was found to be lost: the sweep sees nothing"
    assert not figures["faults"], figures["first_of_each"]
    assert not figures["told"] and status == 0
