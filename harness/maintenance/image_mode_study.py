"""Study of the accuracy that the fast image mode costs.

``python -m smope_bench.harness.maintenance.image_mode_study --methods A,B --out LOG.csv`` renders pictures of photograph-like
proportions, compresses them as JPEG and writes them as a tree of class folders. Each method is trained on them twice with the same
seeds and random resized crops: decoding every picture at each use (exact), and from stored squares (fast). Test pictures are
bit-identical in both modes, so a difference comes from the training pictures alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smope_bench.harness.registry.registry import Registries

CLASSES, TASKS, TRAIN, TEST = 30, 5, 20, 20
RENDERED, QUALITY = 160, 90
SHORTEST, LONGEST = (72, 96), (128, 160)  # height and width in pixels
MODES = ("exact", "fast")
# 36 to 32 px is what 256 to 224 px is at paper scale.
SETTINGS = (
    "benchmark.keep=whole",
    "benchmark.store_size=36",
    "benchmark.test_resize=36",
    "benchmark.image_size=32",
    f"benchmark.tasks={TASKS}",
    "benchmark.augment.kind=random_resized_crop",
    "benchmark.augment.scale=[0.4, 1.0]",
    "benchmark.augment.flip=false",
)


def write_tree(root: Path) -> None:
    """Render the seeded pictures as ``train/<class>/<number>.jpg`` and ``test/...``."""
    from PIL import Image

    from smope_bench.benchmarks.base import SPLITS
    from smope_bench.benchmarks.datasets.glyphs import class_images

    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        for split, count in zip(SPLITS, (TRAIN, TEST), strict=True):
            folder = root / split / f"{label:02}"
            folder.mkdir(parents=True)
            for number, pixels in enumerate(class_images(label, split, count, RENDERED, data_seed=0)):
                height, width = rng.integers(SHORTEST, LONGEST, endpoint=True).tolist()
                picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
                encoded = io.BytesIO()
                picture.save(encoded, "JPEG", quality=QUALITY)
                (folder / f"{number:02}.jpg").write_bytes(encoded.getvalue())


def accuracy(method: str, mode: str, seed: int, tree: Path, work: Path, registries: Registries) -> float:
    """Final average accuracy, in percent, of one run with both seeds ``seed``."""
    from smope_bench.benchmarks.suites import Column, Row
    from smope_bench.harness.metrics import final_average_accuracy
    from smope_bench.harness.planning.planner import Planner
    from smope_bench.harness.planning.selection import Selection
    from smope_bench.harness.planning.settings import parse_setting
    from smope_bench.harness.records.record import Record
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.run_options import RunContext, RunOptions
    from smope_bench.harness.training import trainer

    texts = (*SETTINGS, f"benchmark.path={tree}", f"benchmark.image_mode={mode}")
    planner = Planner(Selection(settings=tuple(map(parse_setting, texts))), registries, work / "data")
    spec, *_ = planner.spec(Row(method, method), Column("pictures", "imagefolder"))
    spec = spec.model_copy(update={"order_seed": seed, "train_seed": seed})
    results = work / "results"
    trainer.run(spec, RunOptions(results, work / "data", keep=False), RunContext(), registries)
    record = Store(results).load(spec.run_id)
    faa = final_average_accuracy(record.result["accuracy_matrix"]) if isinstance(record, Record) else None
    if faa is None:
        raise RuntimeError(f"{method} in mode {mode} published no record")
    return faa


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t-interval."""
    from scipy import stats

    spread = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return float(np.mean(differences)), float(stats.t.ppf(0.975, len(differences) - 1)) * spread


def study(methods: Sequence[str], seeds: int, out: Path) -> None:
    """Run every method in both modes with every seed; write a row per pair of runs and one per method."""
    from smope_bench.harness.hardware.device import pin_arithmetic
    from smope_bench.harness.registry.registry import open_registries

    pin_arithmetic(1)
    registries, rows = open_registries(), []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_tree(work / "pictures")
        for method in methods:
            differences = []
            for seed in range(seeds):
                exact, fast = (accuracy(method, mode, seed, work / "pictures", work, registries) for mode in MODES)
                differences.append(exact - fast)
                rows.append([method, seed, f"{exact:.2f}", f"{fast:.2f}", f"{exact - fast:+.2f}", ""])
                print(*rows[-1], flush=True)
            mean, half = interval(differences)
            rows.append([method, "mean", "", "", f"{mean:+.2f}", f"{half:.2f}"])
            print(*rows[-1], flush=True)
            _write(rows, out)


def _write(rows: Sequence[Sequence[object]], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "seed", "faa_exact", "faa_fast", "exact_minus_fast", "half_width_95"])
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the study."""
    parser = argparse.ArgumentParser(
        prog="python -m smope_bench.harness.maintenance.image_mode_study", description=__doc__
    )
    parser.add_argument("--methods", required=True, help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, at least two")
    parser.add_argument("--out", type=Path, required=True, help="CSV of all pairs")
    options = parser.parse_args(arguments)
    study(options.methods.split(","), max(2, options.seeds), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
