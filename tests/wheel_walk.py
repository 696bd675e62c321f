"""Follows README, docs/python.md and docs/add-a-method.md with the wheel of this checkout, in an empty folder outside of it.

``python tests/wheel_walk.py`` builds the wheel, installs it into a new virtual environment that has the other packages of the
running one, and runs every block there; no network is needed. README commands that take minutes are shortened as
``README_LINES`` says.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/python.md", "docs/add-a-method.md")
INSTALLS = "it installs, and takes minutes: .ci/run does it"
DOWNLOADS = "it downloads"
README_LINES: dict[str, str | None] = {
    "python3 -m venv .venv && .venv/bin/pip install -q -e . && smope-bench": INSTALLS,
    'python3 -m venv .venv && .venv/bin/pip install -q -e ".[dev]" && .venv/bin/python -m pytest -q -n 3 --dist loadfile'
    " --no-loadscope-reorder --durations=10": INSTALLS,
    "smope-bench plan table1": None,
    "smope-bench run table1": DOWNLOADS,
    "smope-bench run table1 --tiny --seeds 0": "+ --methods ncm --benchmarks digits",
    "smope-bench run smoke --methods smope --seeds 0": None,
    "smope-bench predictions": None,
    "smope-bench predictions 37ab4a23 --as confusion": None,
    "smope-bench predict 37ab4a23 three.png": None,
    "smope-bench export 37ab4a23 --to digits-model": None,
    "smope-bench check head_only.py": None,
    "smope-bench run smoke --plugin head_only.py --methods head_only,smope": "+ --seeds 0 --set schedule.epochs=1",
    "smope-bench run smoke --methods smope --backbone my_vit.safetensors": "it needs weights of one's own",
    "smope-bench run smoke --benchmarks imagefolder --set benchmark.path=/path/to/folder"
    " --set benchmark.tasks=5": "+ --methods ncm --seeds 0",
    "smope-bench plan smoke --set benchmark.split=4,3x2 --set benchmark.class_order=numpy --seeds 1993:0": None,
}
"""Each command of the README's blocks: None where it is run as it stands, ``+ OPTIONS`` added to it, or why it is not run."""


def commands_of_readme() -> list[str]:
    """The lines of the README's bash blocks, without comments, with the installed command in place of the checkout's."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [_command(line) for block in blocks for line in block.splitlines()]


def _command(line: str) -> str:
    return line.partition(" #")[0].strip().replace(".venv/bin/python run_all.py", "smope-bench")


def build_wheel(place: Path) -> Path:
    """The wheel of this checkout in ``place``, built from a copy of what git tracks or would track."""
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in filter(None, subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")):
        source, target = ROOT / name, place / "copy" / name
        if source.exists() and not name.startswith(("tests/", "docs/")):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    asked = [sys.executable, "-c", code, str(place)]
    done = subprocess.run(asked, cwd=place / "copy", env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = place.glob("*.whl")
    return file


def install(wheel: Path, place: Path) -> Path:
    """The Python of a new virtual environment in ``place`` with the wheel, and with the other packages of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    asked = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(asked, env=_environment(), check=True)
    (site,) = place.glob("[Ll]ib/**/site-packages")
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n", encoding="utf-8")  # .pth files in these are not read
    return python


def walk(folder: Path) -> None:
    """Follow the pages with the ``smope_bench`` of this Python, which must be an installed one."""
    import smope_bench

    assert Path(smope_bench.__file__).is_relative_to(sys.prefix), smope_bench.__file__
    tests = sys.modules["tests"] = types.ModuleType("tests")  # some installed package may have this name, too
    tests.__path__ = [str(ROOT / "tests")]
    import torch

    from tests.page_blocks import follow, run_python_page  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    readme, page, method = ((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    for name in ("python", "readme"):
        (folder / name).mkdir()
    started = time.monotonic()
    run_python_page(page, folder / "python")
    print(f"{PAGES[1]}: followed in {time.monotonic() - started:.0f} s", flush=True)
    _follow_readme(readme, folder / "python" / "three.png", folder / "readme")
    started = time.monotonic()
    print(f"{PAGES[2]}: {follow(method, folder / 'method')} in {time.monotonic() - started:.0f} s", flush=True)


def _follow_readme(text: str, picture: Path, folder: Path) -> None:
    from tests.page_blocks import BLOCK, run_shell  # pyright: ignore[reportMissingImports]

    shutil.copy(picture, folder)
    for split in ("train", "test"):
        for name in map(str, range(10)):
            (folder / "pictures" / split / name).mkdir(parents=True)
            for number in range(2):
                _write_picture(folder / "pictures" / split / name / f"{number}.png", f"{split} {name} {number}")
    for _, language, block in BLOCK.findall(text):
        if language == "python" and "class HeadOnly" in block:
            (folder / "head_only.py").write_text(block, encoding="utf-8")
        elif language == "python":
            os.chdir(folder)
            exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
        elif language == "bash":
            for line in block.splitlines():
                _run_readme_line(_command(line), folder, run_shell)


def _run_readme_line(line: str, folder: Path, run_shell: Callable[[str, Path, int], str]) -> None:
    rule = README_LINES[line]
    if rule is not None and not rule.startswith("+ "):
        print(f"README.md: not run, {rule}: {line}", flush=True)
        return
    command = line.replace("/path/to/folder", "pictures")
    command += "" if rule is None else rule.removeprefix("+")
    started = time.monotonic()
    run_shell(command, folder, 0)
    print(f"README.md: {time.monotonic() - started:.0f} s: {command}", flush=True)


def _write_picture(file: Path, seed: str) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(list(seed.encode())).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        walk(Path(sys.argv[2]))
        return 0
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for name in ("wheel", "empty"):
            (place / name).mkdir()
        python = install(build_wheel(place / "wheel"), place / "environment")
        asked = [str(python), "-P", __file__, "--inside", str(place / "empty")]
        return subprocess.run(asked, cwd=place / "empty", env=_environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
