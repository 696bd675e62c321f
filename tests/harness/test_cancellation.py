"""Handlers of signals: they take no lock, and a run that does not listen is ended when its grace is over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import pydantic
import pytest

from smope_bench.harness import cancellation as signals
from smope_bench.harness.cancellation import Stopped, signals_held, stop_gently, stop_signals
from smope_bench.harness.provenance import PROJECT_ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_grace_ends(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int) -> None:
    monkeypatch.setattr(signals, "LOOK_S", 0.01)
    asked: list[int] = []
    with pytest.raises(Stopped) as stopped, stop_gently(grace_s=0.05) as stop:
        stop.on_stop = lambda: asked.append(1)
        os.kill(os.getpid(), number)
        time.sleep(20)
        pytest.fail("nobody ended it")
    assert stopped.value.status == status and asked == [1]


def test_a_signal_that_another_thread_is_given_waits_for_the_end_of_the_block() -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    was_left_alone = False
    with pytest.raises(Stopped), stop_gently() as stop:
        with signals_held():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            was_left_alone = stop.signals == 0
        pytest.fail("the second signal was lost")
    over.set()
    other.join()
    assert was_left_alone and stop.signals == 2


@pytest.mark.parametrize(("block", "count"), [(stop_signals, 1), (stop_gently, 2)])
def test_what_an_extension_makes_of_a_signal_is_the_signal(block: Callable[[], Any], count: int) -> None:
    class Shown(pydantic.BaseModel):
        @pydantic.model_serializer
        def shown(self) -> str:
            for _ in range(count):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            return ""

    with pytest.raises(Stopped) as stopped, block():
        Shown().model_dump()
    assert stopped.value.status == 130
    with pytest.raises(ValueError), block():
        raise ValueError


def test_work_that_is_over_in_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "LOOK_S", 0.01)
    before = threading.active_count()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_gently(grace_s=0.1) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.03)
    assert stop.status == 143 and threading.active_count() == before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    time.sleep(0.15)  # a late signal would end the test run


def test_a_handler_that_interrupts_another_does_not_wait_for_it() -> None:
    code = """
        import signal, time
        from smope_bench.harness.cancellation import StopRequest
        request = StopRequest()
        signal.signal(signal.SIGALRM, lambda *_: request.set())
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            request.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(request.is_set())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr
