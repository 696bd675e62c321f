"""docs/scale-out.md: every command is understood, and asks for what the page says. The runs themselves need clusters."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from smope_bench import run_all
from smope_bench.harness.execution.launcher import find_executor, placed
from smope_bench.harness.executors.slurm_options import KNOWN, slurm_plan
from smope_bench.harness.hardware import gpus
from smope_bench.harness.run_options import Gpu, RunOptions
from tests.page_blocks import ROOT  # pyright: ignore[reportMissingImports]

PAGE = (ROOT / "docs" / "scale-out.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if "run_all.py" in line
]
GPUS = [Gpu(f"GPU-{i}", "A", i, f"GPU-{i}", 40960.0, 40000.0, "550", "8.0") for i in range(4)]


def requested(line: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, RunOptions]:
    """(executor, device, options) of a command, on a machine with four GPUs."""
    found: list[RunOptions] = []
    words = shlex.split(line, comments=True)
    variables = [word for word in words[: words.index("python")] if "=" in word]
    with monkeypatch.context() as patch:
        patch.delenv(gpus.VISIBLE, raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        for variable in variables:
            patch.setenv(*variable.split("=", 1))
        patch.setattr(gpus, "machine_gpus", lambda: (GPUS, []))
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(run_all, "_launch", lambda *given: found.append(given[2]) or 0)
        assert run_all.main(words[words.index("run_all.py") + 1 :]) == 0, line
        executor = find_executor(found[0])
        return executor.name, *placed(executor, found[0])


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    executor, device, options = requested(line, monkeypatch)
    assert device == ("cpu" if "--device cpu" in line else "cuda")
    if executor != "slurm":
        return
    request = slurm_plan(options.slurm, options.threads or 1, gpus=device != "cpu").parameters
    if "--device cpu" in line:
        assert not {"slurm_gres", "gpus_per_node", "slurm_gpus_per_task"} & request.keys()
    elif "gpus_per_task" in line:
        assert request["slurm_gpus_per_task"] == 1 and "slurm_gres" not in request and request["cpus_per_task"] == 12
    else:
        assert request["slurm_gres"] == ("gpu:a100:1" if "a100" in line else "gpu:1")


def test_the_gpus_of_the_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    seen = {
        line.split("run table1 ")[1].split("#")[0].strip(): [gpu.index for gpu in requested(line, monkeypatch)[2].gpus]
        for line in COMMANDS
        if "--gpus " in line
    }
    assert seen == {"--gpus 0,2": [0, 2], "--gpus 1": [3], "--workers 8 --gpus 0,1": [0, 1]}


def test_the_page_names_every_option_of_slurm() -> None:
    assert [key for key in sorted(KNOWN) if f"`{key}=" not in PAGE] == []
