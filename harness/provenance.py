"""Where a number came from: versions, revision, hardware, and a hash of the code that can change it.

No user name, host name or path is collected. Importing this module imports no torch: reports need the fingerprint too.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import smope_bench

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the rooms: of the checkout, or of the installed package."""
IMPORT_ROOT = Path(smope_bench.__file__).resolve().parent.parent
"""The folder from which another Python imports ``smope_bench``."""
ROOMS = ("benchmarks", "harness", "methods")
SOURCE_SUFFIXES = frozenset({".py", ".safetensors", ".json"})
# Files that choose, schedule, show or check runs but take no part in one: editing them leaves every record valid.
# What suites and recipes decide is in each run's spec already; what files were fetched and converted, in its hashes.
NOT_PART_OF_A_RUN = frozenset(
    {
        "benchmarks/*_expected.json",
        "benchmarks/download/x_archive_limits.py",
        "benchmarks/download/archives.py",
        "benchmarks/avalanche_*.py",
        "benchmarks/download/fetch.py",
        "benchmarks/download/locks.py",
        "benchmarks/suites*.py",
        "benchmarks/download/transfer.py",
        "harness/bench*.py",
        "harness/cli/listing.py",
        "harness/execution/lease.py",
        "harness/executors/remote.py",
        "harness/cli/options.py",
        "harness/conformance*.py",
        "harness/cost*.py",
        "harness/cost*.json",
        "harness/cost/cost_suites.py",
        "harness/cli/data.py",
        "harness/cost/estimate.py",
        "harness/execution/scheduler.py",
        "harness/executor_*.py",
        "harness/cli/expectations.py",
        "harness/planning/compatibility.py",
        "harness/execution/job.py",
        "harness/maintenance/x_method_table.py",
        "harness/records/migrate.py",
        "harness/cli/methods.py",
        "harness/metrics.py",
        "harness/maintenance/image_mode_study.py",
        "harness/registry/scaffold.py",
        "harness/maintenance/performance_page.py",
        "harness/text.py",
        "harness/execution/memory_budget.py",
        "harness/planning/planner.py",
        "harness/plugin_*.py",
        "harness/hardware/device.py",
        "harness/planning/assets.py",
        "harness/pretrain_*.py",
        "harness/execution/x_processes.py",
        "harness/execution/progress.py",
        "harness/provenance.py",
        "harness/maintenance/docs_tables.py",
        "harness/registry/registry.py",
        "harness/maintenance/search_tiny.py",
        "harness/planning/settings.py",
        "harness/cancellation.py",
        "harness/slurm_*.py",
        "harness/status*.py",
        "harness/execution/launcher.py",
        "harness/tune*.py",
        "harness/executors/local.py",
        "methods/common/backbone/conversion.py",
        "methods/common/backbone/x_google_vit.py",
        "methods/common/backbone/zoo.py",
        "methods/recipes/search_grids.py",
        "methods/recipes*.py",
    }
)


def source_files(root: Path = PROJECT_ROOT) -> list[Path]:
    """The project's own files that can change a run's numbers, in a fixed order."""
    files = (
        file
        for room in ROOMS
        for file in (root / room).rglob("*")
        if file.suffix in SOURCE_SUFFIXES and "__pycache__" not in file.parts
    )
    return sorted(file for file in files if not _is_outside_runs(file.relative_to(root).as_posix()))


def _is_outside_runs(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in NOT_PART_OF_A_RUN)


def fingerprint_of(files: Iterable[Path], root: Path) -> str:
    """sha256 in hex over names (relative to ``root``, with forward slashes) and contents."""
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@functools.cache
def code_fingerprint() -> str:
    """Hash of the code that this process runs; records with another one are shown as stale."""
    return fingerprint_of(source_files(), PROJECT_ROOT)


def with_sources(code: str, sources: Mapping[str, str]) -> str:
    """A code fingerprint and the hashes of a run's plugins as one; without plugins the fingerprint itself."""
    if not sources:
        return code
    said = "".join(f"\0{kind}\0{source}" for kind, source in sorted(sources.items()))
    return hashlib.sha256(f"{code}{said}".encode()).hexdigest()


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """(revision, whether tracked files differ from it); (None, None) outside a checkout of this project."""
    if not (PROJECT_ROOT / ".git").exists():  # an installed copy inside somebody else's repository must not claim it
        return None, None
    try:
        revision = _git("rev-parse", "HEAD")
        return revision, bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def version_of(distribution: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def project_version() -> str:
    """This project's version; from pyproject.toml where it runs from a checkout that is not installed."""
    installed = version_of("smope-bench")
    if installed is not None:
        return installed
    import tomllib

    try:
        return str(tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, KeyError):
        return "unknown"


def now() -> str:
    """The time in UTC to the second, as records write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def collect(device: str = "cpu", **extra: Any) -> dict[str, Any]:
    """The ``provenance`` block of a record; ``extra`` adds what only the run knows (times, weight and split hashes)."""
    revision, dirty = git_state()
    return {
        "project": project_version(),
        "git_revision": revision,
        "git_dirty": dirty,
        "code_fingerprint": code_fingerprint(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in ("torch", "timm", "numpy")},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "device": device,
        "device_name": device_name(device),
        **({"deterministic": True} if is_deterministic() else {}),
        **extra,
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def cpu_model() -> str:
    """The processor's name as the system tells it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """What ``cpu`` or ``cuda[:n]`` is called; asks torch only where it is loaded already."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return str(torch.cuda.get_device_name(device))
    return cpu_model()


def is_deterministic() -> bool:
    """Whether torch refuses operations whose bits may differ from call to call; asks it only where it is loaded already."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.are_deterministic_algorithms_enabled())
