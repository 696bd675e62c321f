"""A real Slurm on this machine for the length of a test module: controller and one node, unprivileged plugins, no accounting.

It needs Debian's ``slurm-wlm`` and root, since a node that starts other users' jobs does. Neither ``munge`` nor systemd.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
KillWait=5
MaxArraySize=2
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
"""


def why_not() -> str | None:
    """Why no Slurm can be started here, or None."""
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} not found): apt-get install slurm-wlm"
    if os.geteuid() != 0:
        return "a Slurm node has to be started as root"
    return None


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running Slurm of one node with two processors; SLURM_CONF points to it. Skips, with the reason, where none starts."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host, ports = socket.gethostname().split(".")[0], _free_ports(2)
    text = CONF.format(host=host, folder=folder, controller=ports[0], node=ports[1])
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    daemons = [_start(folder, "slurmctld", "-D", "-i"), _start(folder, "slurmd", "-D", "-N", host)]
    try:
        if not _is_up(daemons):
            pytest.skip(f"Slurm is installed but does not start here: {_complaints(folder)}")
        yield folder
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=20, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / f"{command[0]}.out").open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)


def _is_up(daemons: list[subprocess.Popen[bytes]], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(daemon.poll() is None for daemon in daemons):
        command = ["sinfo", "--noheader", "--format=%T"]
        states = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.split()
        if states == ["idle"]:
            return True
        time.sleep(0.3)
    return False


def _complaints(folder: Path) -> str:
    lines = [line for log in folder.glob("slurm*.log") for line in log.read_text(errors="replace").splitlines()]
    return " | ".join([line for line in lines if "error" in line or "fatal" in line][-3:]) or "no reason given"


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
