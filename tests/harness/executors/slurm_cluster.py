"""A real Slurm on this machine for the length of a test module: controller and nodes, unprivileged plugins, no accounting.

It needs Debian's ``slurm-wlm`` and root, since a node that starts other users' jobs does. Neither ``munge`` nor systemd.
"""

from __future__ import annotations

import contextlib
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
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
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
KillWait=5
{partitions}
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} State=UNKNOWN\n"
ONE_NODE = """
ReturnToService=2
MaxArraySize=2
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PREEMPTION = """
ReturnToService=1
MaxArraySize=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=requeue Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=cancel Nodes=ALL PriorityTier=1 PreemptMode=CANCEL GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=first Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""
"""Two partitions whose jobs lose their nodes to those of a third, to go back into the queue or for good."""


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
    folder = tmp_path_factory.mktemp("slurm")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(started(folder))
        except NoSlurm as reason:
            pytest.skip(str(reason))
        yield folder


class NoSlurm(Exception):
    """Why no Slurm can be started here."""


@contextlib.contextmanager
def started(folder: Path, partitions: str = ONE_NODE, nodes: int = 1, cpus: int = 2) -> Iterator[None]:
    """A running Slurm that keeps its files in ``folder``; SLURM_CONF points to it. Raises NoSlurm."""
    if reason := why_not():
        raise NoSlurm(reason)
    (folder / "state").mkdir()
    host, ports = socket.gethostname().split(".")[0], _free_ports(1 + nodes)
    names = [f"n{number}" for number in range(nodes)] if nodes > 1 else [host]
    text = CONF.format(host=host, folder=folder, controller=ports[0], partitions=partitions)
    for name, port in zip(names, ports[1:], strict=True):
        text += NODE.format(name=name, host=host, port=port, cpus=cpus)
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    daemons = [_start(folder, "slurmctld", "-D", "-i"), *(_start(folder, "slurmd", "-D", "-N", name) for name in names)]
    try:
        if not _is_up(daemons):
            raise NoSlurm(f"Slurm is installed but does not start here: {_complaints(folder)}")
        yield
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
    with (folder / f"{command[0]}.{command[-1]}.out").open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)


def _is_up(daemons: list[subprocess.Popen[bytes]], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(daemon.poll() is None for daemon in daemons):
        command = ["sinfo", "--noheader", "--Node", "--format=%T"]
        states = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.split()
        if states == ["idle"] * len(states) and states:
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
