"""Claims: one holder at a time, the dead recovered, clocks without a say."""

import getpass
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from smope_bench.benchmarks.download.locks import locked
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution import lease as claims
from smope_bench.harness.execution.lease import (
    BEAT_S,
    CACHE_S,
    CANCEL,
    DEAD_S,
    SKEW_S,
    Lease,
    LeaseMonitor,
    LeaseState,
    acquire,
    newest,
)
from smope_bench.harness.execution.lease_files import lives, process_started, this_machine
from smope_bench.harness.provenance import IMPORT_ROOT

pytestmark = pytest.mark.skipif(this_machine() is None, reason="the system does not tell which machine this is")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def taken(found: Lease | LeaseState) -> Lease:
    assert isinstance(found, Lease)
    return found


def foreign(folder: Path, beat: int = 0, written: float | None = None) -> Path:
    """A claim of another machine, as it would beat there."""
    folder.mkdir(exist_ok=True)
    file = folder / "claim.1"
    text = claims._content("t" * 32, beat, "held").decode().replace(str(this_machine()), "another-machine")
    file.write_text(text, encoding="utf-8")
    if written is not None:
        os.utime(file, (written, written))
    return file


def dead(folder: Path) -> None:
    """A claim of a process of this machine that is gone."""
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    folder.mkdir(exist_ok=True)
    text = claims._content("d" * 32, 3, "held").decode().replace(f'"pid": {os.getpid()}', f'"pid": {gone.pid}')
    (folder / "claim.1").write_text(text, encoding="utf-8")


def test_a_claim_is_one_process_s_until_it_is_given_back(folder: Path) -> None:
    first = taken(acquire(folder))
    second = acquire(folder)
    assert isinstance(second, LeaseState) and second.is_here and not second.is_free
    assert second.token == first.token and first.still_ours()
    first.release(forget=False)
    third = taken(acquire(folder))
    assert third.number == 2 and third.still_ours()
    third.release(forget=True)
    assert list(folder.iterdir()) == []


def test_a_claim_names_neither_host_nor_user(folder: Path) -> None:
    claim = taken(acquire(folder))
    text = (folder / "claim.1").read_text(encoding="utf-8")
    claim.release(forget=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for name in {platform.node(), getpass.getuser(), str(Path.home()), boot} - {"root", "/root"}:
        assert name not in text


def test_it_beats_and_a_beat_never_leaves_half_a_claim(folder: Path) -> None:
    claim = taken(acquire(folder, beat_s=0.01))
    texts = set()
    end = time.monotonic() + 5
    while len(texts) < 4 and time.monotonic() < end:
        found = newest(folder)
        assert found is not None and found.token == claim.token
        texts.add(found.content)
    claim.release(forget=True)
    assert len(texts) == 4 and len({len(text) for text in texts}) == 1


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_contenders_for_a_dead_owner_s_run_one_wins(folder: Path, attempt: int) -> None:
    dead(folder)
    barrier = threading.Barrier(8)

    def contend(_: int) -> Lease | LeaseState:
        barrier.wait()
        return acquire(folder)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(contend, range(8)))
    winners = [claim for claim in found if isinstance(claim, Lease)]
    assert len(winners) == 1 and winners[0].still_ours()
    assert {held.token for held in found if isinstance(held, LeaseState)} <= {winners[0].token, ""}
    winners[0].release(forget=True)


def test_of_many_that_judge_a_silent_owner_elsewhere_one_frees_it(folder: Path) -> None:
    foreign(folder)
    clock = Clock()
    watches = [LeaseMonitor(clock=clock) for _ in range(8)]
    assert not any(watch.is_free(folder) for watch in watches)
    clock.now += DEAD_S + CACHE_S + 1
    barrier = threading.Barrier(8)

    def contend(watch: LeaseMonitor) -> Lease | LeaseState | None:
        barrier.wait()
        return acquire(folder) if watch.is_free(folder) else None

    with ThreadPoolExecutor(8) as pool:
        winners = [claim for claim in pool.map(contend, watches) if isinstance(claim, Lease)]
    assert len(winners) == 1 and winners[0].still_ours()
    winners[0].release(forget=True)


def test_a_killed_owner_s_run_is_free_at_once(folder: Path) -> None:
    code = f"""
        import time
        from pathlib import Path
        from smope_bench.harness.execution.lease import acquire
        acquire(Path({str(folder)!r}))
        time.sleep(60)
    """
    environment = os.environ | {"PYTHONPATH": str(IMPORT_ROOT)}
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment)
    try:
        end = time.monotonic() + 20
        while (held := newest(folder)) is None or not held.token:
            assert time.monotonic() < end and owner.poll() is None
            time.sleep(0.02)
        assert isinstance(acquire(folder), LeaseState)
        owner.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet waited for
        claim = taken(acquire(folder))
    finally:
        owner.kill()
        owner.wait()
    assert claim.number == 2
    claim.release(forget=True)


def test_a_number_that_another_process_got_since_is_not_its_owner(folder: Path) -> None:
    assert lives(os.getpid(), process_started(os.getpid()))
    assert not lives(os.getpid(), "12345")
    assert not lives(2**22 + 1, "1")


def test_a_beating_owner_elsewhere_keeps_its_run_whatever_the_clocks_say(folder: Path) -> None:
    clock = Clock()
    watch = LeaseMonitor(clock=clock)
    for beat in range(50):  # its file's times are wrong by hours in either direction
        foreign(folder, beat, written=time.time() + (-7200 if beat % 2 else 7200))
        assert not watch.is_free(folder)
        clock.now += BEAT_S
    assert isinstance(acquire(folder), LeaseState)


def test_a_silent_owner_elsewhere_is_given_time_then_up(folder: Path) -> None:
    foreign(folder)
    clock = Clock()
    watch = LeaseMonitor(clock=clock)
    assert not watch.is_free(folder)
    clock.now += DEAD_S + CACHE_S - 1
    assert not watch.is_free(folder) and isinstance(acquire(folder), LeaseState)
    clock.now += 2
    assert watch.is_free(folder)
    claim = taken(acquire(folder))
    assert claim.number == 3  # its successor's claim was given back as soon as it was made
    claim.release(forget=True)


def test_one_that_was_silent_for_long_before_is_given_a_few_beats(folder: Path) -> None:
    foreign(folder, written=time.time() - DEAD_S - CACHE_S - SKEW_S - 10)
    clock = Clock()
    watch = LeaseMonitor(clock=clock)
    for _ in range(3):
        assert not watch.is_free(folder), "the clock may have jumped: it is watched first"
        clock.now += BEAT_S / 2
    clock.now += claims.QUIET_BEATS * BEAT_S + 1
    assert watch.is_free(folder)


def test_a_copy_from_a_cache_and_a_clock_of_another_machine_do_not_make_it_old(folder: Path) -> None:
    foreign(folder, written=time.time() - SKEW_S - CACHE_S)
    clock = Clock()
    watch = LeaseMonitor(clock=clock)
    assert not watch.is_free(folder)
    clock.now += DEAD_S + CACHE_S - 1
    assert not watch.is_free(folder)


def test_two_leases_that_are_not_written_yet_are_two(folder: Path) -> None:
    folder.mkdir()
    (folder / "claim.1").touch()
    clock = Clock()
    watch = LeaseMonitor(clock=clock)
    assert not watch.is_free(folder)
    clock.now += DEAD_S + CACHE_S + 1
    (folder / "claim.2").touch()  # whoever takes the run over is about to write it
    assert not watch.is_free(folder)


def test_a_clock_that_jumped_back_delays_and_breaks_nothing(folder: Path) -> None:
    foreign(folder, written=time.time() + 86_400)
    clock = Clock()
    watch = LeaseMonitor(clock=clock)
    assert not watch.is_free(folder)
    clock.now += claims.QUIET_BEATS * BEAT_S + 1
    assert not watch.is_free(folder), "a time in the future says nothing"
    clock.now += DEAD_S + CACHE_S
    assert watch.is_free(folder)


def test_a_sleeper_that_wakes_finds_its_claim_lost_and_disturbs_nobody(folder: Path) -> None:
    sleeper = taken(acquire(folder, beat_s=60))
    clock = Clock()
    watch = LeaseMonitor(clock=clock)
    assert not watch.is_free(folder)
    clock.now += DEAD_S + CACHE_S + 1
    assert watch.is_free(folder)
    heir = taken(acquire(folder))
    assert not sleeper.still_ours() and heir.still_ours()
    sleeper.release(forget=True)
    assert heir.still_ours() and isinstance(acquire(folder), LeaseState)
    heir.release(forget=True)


def test_whoever_listed_the_folder_too_early_does_not_win(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender saw claim 1 of a dead owner; meanwhile others came, went and removed it, and a third is at work."""
    dead(folder)
    stale = newest(folder)
    (folder / "claim.1").unlink()
    worker = replace(stale, number=3) if stale else None
    assert worker is not None
    (folder / "claim.3").write_bytes(claims._content("w" * 32, 0, "held"))
    seen = iter([stale])
    real = claims.newest
    monkeypatch.setattr(claims, "newest", lambda where, *files: next(seen, None) or real(where, *files))
    found = acquire(folder)
    assert isinstance(found, LeaseState) and found.token == "w" * 32


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": 1}', b"\xff\xfe"])
def test_a_claim_that_says_nothing_is_held_until_it_was_silent_for_long(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "claim.1").write_bytes(content)
    assert isinstance(acquire(folder), LeaseState)
    clock = Clock()
    watch = LeaseMonitor(clock=clock)
    assert not watch.is_free(folder)
    clock.now += DEAD_S + CACHE_S + 1
    assert watch.is_free(folder)


def test_a_removed_results_folder_is_a_lost_claim(folder: Path) -> None:
    claim = taken(acquire(folder))
    (folder / "claim.1").unlink()
    assert not claim.still_ours()
    claim.release(forget=False)


def test_a_cancel_reaches_whoever_holds_the_run(folder: Path) -> None:
    asked = threading.Event()
    claim = taken(acquire(folder, beat_s=0.02, on_cancel=asked.set))
    assert not asked.wait(0.1)
    (folder / CANCEL).touch()
    assert asked.wait(5) and claim.cancelled
    claim.release(forget=True)
    assert not (folder / CANCEL).exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(
        UserError, match=r"run run cannot be begun: nothing can be written to .* or name another folder with --results"
    ):
        acquire(tmp_path / "run")


def test_a_full_disk_leaves_no_claim_that_nobody_can_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(UserError, match="No space left on device"):
            acquire(folder)
    assert list(folder.iterdir()) == []
    claim = taken(acquire(folder))
    monkeypatch.setattr(claims.FILES, "now", lambda where: full(0, b""))
    assert claim.still_ours(), "nothing can be written, but nobody has taken it"
    claim.release(forget=True)


def test_a_holder_hears_that_it_lost_its_claim(folder: Path) -> None:
    asked = threading.Event()
    claim = taken(acquire(folder, beat_s=0.02, on_cancel=asked.set))
    (folder / "claim.2").write_bytes(claims._content("h" * 32, 0, "held"))
    assert asked.wait(20) and claim.is_lost and not claim.cancelled
    claim.release(forget=False)


def test_a_slow_beat_does_not_undo_that_the_claim_was_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, given_back = threading.Event(), threading.Event()
    claim = taken(acquire(folder, beat_s=0.02))

    def slow() -> bool:
        looked.set()
        return given_back.wait(20)

    monkeypatch.setattr(claim, "still_ours", slow)
    assert looked.wait(20)
    monkeypatch.setattr(claim._thread, "join", lambda timeout: None)  # the file system keeps it waiting for longer
    claim.release(forget=False)
    given_back.set()
    threading.Thread.join(claim._thread, 20)
    held = newest(folder)
    assert held is not None and held.is_released


def test_leases_and_locks_are_for_all_whom_the_user_s_mask_lets_write(folder: Path) -> None:
    before = os.umask(0o002)
    try:
        taken(acquire(folder)).release(forget=False)
        with locked(folder / "lock", lambda: None):
            modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"claim.1": 0o664, "lock": 0o664}
