"""How many jobs Slurm takes: the size of an array and the jobs that a user may have in the queue, as its tools tell them.

``slurm`` splits and submits arrays by them.
"""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass

from smope_bench.harness.executors.slurm_queue import query

DEFAULT_ARRAY = 1000
"""Jobs in an array where Slurm does not tell its limit, which is 1001 by default."""
_REFUSALS = re.compile(r"submit limit|SubmitJob|job array specification|MaxJobCount|temporarily", re.IGNORECASE)


@dataclass(frozen=True)
class SlurmLimits:
    """Limits of one user; ``source`` names each with its value, for messages."""

    array: int = DEFAULT_ARRAY
    submit: int | None = None
    """Jobs in the queue, where every element of an array counts; None if no limit is known."""
    source: str = "MaxArraySize is not known"


def read_limits(account: str | None = None, qos: str | None = None) -> SlurmLimits:
    """``MaxArraySize``, and ``MaxSubmitJobs`` of the user's associations and quality of service where there is accounting."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", query("scontrol", "show", "config") or "", re.MULTILINE)
    # Indices end at MaxArraySize - 1, so that an array may have as many jobs; 0 forbids arrays, and 1 allows one job in each.
    array, sources = (max(1, int(found[1])), [f"MaxArraySize {found[1]}"]) if found else (DEFAULT_ARRAY, [])
    limits: list[tuple[int, str]] = []
    rows = _accounting("assoc", f"user={getpass.getuser()}", "format=Account,DefaultQOS,MaxSubmitJobs")
    rows = [row for row in rows if account in (None, row[0])]
    limits += [(int(row[2]), f"MaxSubmitJobs {row[2]} of account {row[0]}") for row in rows if row[2].isdigit()]
    names = {qos} if qos else {row[1] for row in rows}
    for name, limit in (row[:2] for row in _accounting("qos", "format=Name,MaxSubmitJobsPerUser")):
        if name in names and limit.isdigit():
            limits.append((int(limit), f"MaxSubmitJobsPerUser {limit} of QOS {name}"))
    least = min(limits, default=None)
    sources += [least[1]] if least else []
    return SlurmLimits(array, least[0] if least else None, ", ".join(sources) or SlurmLimits.source)


def is_refused_for_size(reason: str) -> bool:
    """Whether sbatch may take fewer jobs, or the same later, by the reason that it gives."""
    return _REFUSALS.search(reason) is not None


def _accounting(*what: str) -> list[list[str]]:
    """Rows of ``sacctmgr show``, each with at least three fields; none without an accounting database."""
    answer = query("sacctmgr", "--noheader", "--parsable2", "--readonly", "show", *what) or ""
    return [[*line.split("|"), "", "", ""] for line in answer.splitlines() if line.strip()]
