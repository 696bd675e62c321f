"""Two launchers that share a results folder over SSHFS, one of which is killed: a real network file system with caches of a minute.

From the project's folder, as root, on Linux with ``ip``, ``unshare``, ``sshd``, ``sshfs`` and ``/dev/fuse``:
``python tests/robustness/mounted_leases.py``. It connects two network namespaces. One serves a folder, the other mounts it
with all caches of SSHFS and of FUSE at 60 seconds; each launcher is in process and mount namespaces of its own, so that neither
sees whether the other's processes live. The engine is a stand-in that works for some seconds. First the launcher behind
the mount is killed in the middle of a run, then the one beside the files. It prints its figures as JSON; the exit status is 1
where a run was lost or done twice, and 2 where this machine cannot do it. It takes six minutes, nearly all of them waiting.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests/harness"), str(ROOT / "src")]

from stand_ins import planned, publish  # noqa: E402  # pyright: ignore[reportMissingImports]

from smope_bench.harness.cancellation import Interrupted, LeaseLost  # noqa: E402
from smope_bench.harness.execution.job import Job  # noqa: E402
from smope_bench.harness.execution.scheduler import execute  # noqa: E402
from smope_bench.harness.records.store import Store  # noqa: E402
from smope_bench.harness.run_options import RunContext, RunOptions  # noqa: E402

NEEDED = ("ip", "unshare", "sshd", "ssh", "sshfs", "ssh-keygen", "mount")
RUNS, WORK_S, LONGEST_S = 4, 8.0, 420.0
CACHES = "dir_cache=yes,dcache_timeout=60,dcache_dir_timeout=60,dcache_link_timeout=60,dcache_stat_timeout=60"
FUSE_CACHES = "entry_timeout=60,negative_timeout=60,attr_timeout=60,kernel_cache"
SSHD = """
Port 2222
ListenAddress 10.77.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/sshd.pid
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
Subsystem sftp internal-sftp
"""


class CannotMount(Exception):
    """Why this machine cannot do it."""


def run(job: Job, options: RunOptions, context: RunContext) -> None:
    """The stand-in for the engine: works, publishes, and notes it in a file of its own launcher."""
    note(f"began {job.run_id}")
    end = time.monotonic() + WORK_S
    while time.monotonic() < end:
        if context.stop_request.is_set():
            raise Interrupted
        time.sleep(0.1)
    if not context.may_publish():
        raise LeaseLost
    try:
        publish(job, options, replace=False)
    except FileExistsError as error:
        note(f"refused {job.run_id}")
        raise LeaseLost from error
    note(f"published {job.run_id}")


def note(text: str) -> None:
    """Write a line to this launcher's log."""
    with Path(os.environ["LAUNCHER_LOG"]).open("a") as stream:
        stream.write(f"{text}\n")


def launch(results: Path) -> int:
    """A launcher: all runs of the sweep."""
    options = RunOptions(results, results.parent / "data", runner="mounted_leases:run", executor="serial")
    ends = list(execute([planned(seed) for seed in range(RUNS)], options, lambda *_: None))
    print([(end.state, end.error) for end in ends], flush=True)
    return 0 if all(end.state in ("done", "skipped") for end in ends) else 1


def sh(*command: str) -> None:
    """Run a command. Raises CannotMount with the last line that it says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise CannotMount(f"{' '.join(command[:4])}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


@contextlib.contextmanager
def two_namespaces(folder: Path) -> Iterator[tuple[str, str]]:
    """Names of two connected network namespaces; the first serves files by SSH. Raises CannotMount."""
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing or os.geteuid() != 0 or not Path("/dev/fuse").exists():
        reasons = [f"not found: {', '.join(missing)}"] if missing else []
        reasons += ["it needs root"] if os.geteuid() != 0 else []
        reasons += ["there is no /dev/fuse"] if not Path("/dev/fuse").exists() else []
        raise CannotMount("; ".join(reasons))
    names = (f"files{os.getpid()}", f"mount{os.getpid()}")
    try:
        for name in names:
            sh("ip", "netns", "add", name)
        sh("ip", "link", "add", "v0", "netns", names[0], "type", "veth", "peer", "name", "v1", "netns", names[1])
        for name, end, address in ((names[0], "v0", "10.77.0.1/24"), (names[1], "v1", "10.77.0.2/24")):
            sh("ip", "-n", name, "address", "add", address, "dev", end)
            sh("ip", "-n", name, "link", "set", end, "up")
            sh("ip", "-n", name, "link", "set", "lo", "up")
        for key in ("host", "user"):
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
        (folder / "sshd_config").write_text(SSHD.format(folder=folder))
        Path("/run/sshd").mkdir(exist_ok=True)
        sh("ip", "netns", "exec", names[0], str(shutil.which("sshd")), "-f", str(folder / "sshd_config"))
        yield names
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / "sshd.pid").read_text()), signal.SIGTERM)
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


class Launcher:
    """One launcher in namespaces of its own; ``mounted``: behind the mount."""

    def __init__(self, name: str, namespace: str, folder: Path, results: Path, *, mounted: bool) -> None:
        self.log = folder / f"{name}.log"
        self.log.touch()
        place, mount = results, ""
        if mounted:
            place = folder / f"{name}-mount"
            place.mkdir()
            ssh = f"port=2222,IdentityFile={folder}/user,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
            mount = f"sshfs -o {ssh},{CACHES},{FUSE_CACHES} root@10.77.0.1:{results.parent} {place} && "
            place = place / results.name
        path = os.pathsep.join(str(each) for each in (ROOT / "src", ROOT / "tests/harness", Path(__file__).parent))
        command = f"{mount}exec {sys.executable} {__file__} launch {place}"
        inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c", command]
        with (folder / f"{name}.out").open("wb") as out:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *inside],
                env=os.environ | {"LAUNCHER_LOG": str(self.log), "PYTHONPATH": path},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.said = folder / f"{name}.out"

    def notes(self, what: str) -> list[str]:
        """Runs of which it noted this."""
        return [line.split()[1] for line in self.log.read_text().splitlines() if line.startswith(what)]

    def kill(self) -> None:
        """SIGKILL to all of its processes, and with them to its mount."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def one_round(names: tuple[str, str], folder: Path, *, kill_mounted: bool) -> dict[str, Any]:
    """Both launchers at once; one is killed in the middle of its second run, the other finishes all."""
    results = folder / "share" / "results"
    results.mkdir(parents=True)
    beside = Launcher("beside", names[0], folder, results, mounted=False)
    behind = Launcher("behind", names[1], folder, results, mounted=True)
    victim, other = (behind, beside) if kill_mounted else (beside, behind)
    begun = time.monotonic()
    try:
        while len(victim.notes("began")) < 2:
            if victim.process.poll() is not None or time.monotonic() - begun > LONGEST_S:
                raise RuntimeError(f"the launcher did nothing: {victim.said.read_text(errors='replace')[-1500:]}")
            time.sleep(0.2)
        time.sleep(WORK_S / 3)
        victim.kill()
        killed = time.monotonic()
        status = other.process.wait(LONGEST_S)
        waited = time.monotonic() - killed
    finally:
        for launcher in (beside, behind):
            with contextlib.suppress(ProcessLookupError):
                launcher.kill()
    published = [*beside.notes("published"), *behind.notes("published")]
    done = [record.run_id for record in Store(results).scan()]
    return {
        "killed": "behind the mount" if kill_mounted else "beside the files",
        "status": status,
        "said": other.said.read_text(errors="replace")[-300:].strip(),
        "runs": RUNS,
        "done": len(done),
        "published": len(published),
        "published_twice": len(published) - len(set(published)),
        "by_the_killed": len(victim.notes("published")),
        "refused": len(beside.notes("refused")) + len(behind.notes("refused")),
        "until_done_s": round(waited, 1),
    }


def main() -> int:
    """The command line."""
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        try:
            for kill_mounted in (True, False):
                folder = Path(temporary) / f"round-{kill_mounted}"
                folder.mkdir()
                with two_namespaces(folder) as names:
                    rounds.append(one_round(names, folder, kill_mounted=kill_mounted))
                print(json.dumps(rounds[-1]), flush=True)
        except CannotMount as reason:
            print(f"error: no network file system can be mounted here ({reason})", file=sys.stderr)
            return 2
    bad = [each for each in rounds if each["status"] or each["done"] != RUNS or each["published_twice"]]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(launch(Path(sys.argv[2])) if sys.argv[1:2] == ["launch"] else main())
