"""Work by copies of this process: results in their order, errors as results, and a copy that is killed."""

from __future__ import annotations

import gc
import os
import signal
import sys
from functools import partial

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.reports.figures.drawing.processes import do_all

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux copies a process safely")


def refuse(number: int) -> int:
    raise UserError(f"number {number} is refused")


def die_in_a_copy(parent: int) -> int:
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_results_come_in_order_from_several_processes() -> None:
    jobs = [lambda place=place: (place, os.getpid()) for place in range(6)]
    found = do_all(jobs, processes=2)
    assert [one[0] for one in found if isinstance(one, tuple)] == list(range(6))
    assert os.getpid() not in {one[1] for one in found if isinstance(one, tuple)}


def test_a_users_error_is_a_result_and_another_is_raised() -> None:
    jobs = [partial(refuse, 1), lambda: 2, lambda: 3]
    for processes in (1, 2):
        error, *numbers = do_all(jobs, processes)
        assert isinstance(error, UserError) and str(error) == "number 1 is refused" and numbers == [2, 3]
        with pytest.raises(ZeroDivisionError):
            do_all([lambda: 1 // 0, lambda: 2, lambda: 3], processes)


def test_what_a_killed_copy_has_not_done_is_done_here() -> None:
    assert do_all([partial(die_in_a_copy, os.getpid()), lambda: 8, lambda: 9], processes=2) == [7, 8, 9]


def test_what_the_caller_froze_stays_frozen() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    assert do_all([lambda: 1] * 3, processes=2) == [1, 1, 1]
    assert gc.get_freeze_count() > before // 2


def test_a_process_with_torch_is_not_copied(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert do_all([os.getpid] * 4) == [os.getpid()] * 4
