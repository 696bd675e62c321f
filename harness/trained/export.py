"""A trained model as a folder of its own: weights, class names, preprocessing, model card, and a program that loads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smope_bench.benchmarks.augmentation import statistics_of
from smope_bench.benchmarks.disk import refusal
from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import final_average_accuracy
from smope_bench.harness.records.atomic_write import json_bytes, write_atomically
from smope_bench.harness.records.record import MODEL, with_checksum
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import Component, RunSpec
from smope_bench.harness.trained.find import DESCRIPTION, KeptModel

CARD, PROGRAM, CLASSES, PREPROCESSING = "README.md", "predict.py", "classes.txt", "preprocessing.json"
FIELDS = (
    "schema_version",
    "run_id",
    "spec",
    "class_names",
    "domains",
    "provenance",
    "model",
    "accuracy_matrix",
    "flags",
)
"""Fields of a record that describe an exported model."""

SCRIPT = '''"""Classes and probabilities of the pictures or folders that are given: python predict.py IMAGE..."""

import sys
from pathlib import Path

try:
    import smope_bench
except ImportError:
    print("error: install smope-bench {version}, which has the method and its frozen backbone", file=sys.stderr)
    sys.exit(2)
here = Path(__file__).parent
try:
    found = smope_bench.load_model(here{more}).predict(sys.argv[1:])  # found.frame() is a pandas data frame
except smope_bench.UserError as error:
    print(f"error: {{error}}", file=sys.stderr)
    sys.exit(2)
for name, label, probabilities in zip(found.names, found.classes, found.probabilities):
    print(f"{{name}}: {{label}} ({{probabilities.max():.1%}})")
'''


def export_model(
    kept: KeptModel, registries: Registries, folder: Path, data: Path, *, plugins: tuple[Path, ...] = ()
) -> list[str]:
    """Write a trained model to a folder, which may be empty or have an older export; returns the names of its files.

    ``plugins``: the files that the run was made with, which are copied. Raises UserError where the folder cannot be written or
    has other files.
    """
    names = (MODEL, DESCRIPTION, CLASSES, PREPROCESSING, CARD, PROGRAM, *(file.name for file in plugins))
    try:
        others = sorted(file.name for file in folder.iterdir()) if folder.exists() else []
        if others and not (folder / DESCRIPTION).is_file():
            raise UserError(f"folder {str(folder)!r} is not empty: it has {others[0]!r}; name another with --to DIR")
        spec = RunSpec(**kept.record["spec"])
        described = with_checksum({field: kept.record[field] for field in FIELDS if field in kept.record})
        preprocessing = _preprocessing(spec, registries, data)
        contents = {
            MODEL: kept.data,
            CLASSES: "".join(f"{name}\n" for name in kept.record["class_names"]).encode(),
            PREPROCESSING: json_bytes(preprocessing),
            CARD: _card(kept, spec, registries, preprocessing).encode(),
            PROGRAM: SCRIPT.format(more=_more(plugins), version=_version(kept)).encode(),
            **{file.name: file.read_bytes() for file in plugins},
            DESCRIPTION: json_bytes(described),
        }
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise UserError(f"folder {str(folder)!r} cannot be written ({refusal(error, folder)}); name another") from error
    return list(names)


def _version(kept: KeptModel) -> str:
    return str(kept.record["provenance"].get("project"))


def _more(plugins: tuple[Path, ...]) -> str:
    named = ", ".join(f"here / {file.name!r}" for file in plugins)
    return f", plugins=[{named}]" if plugins else ""


def _preprocessing(spec: RunSpec, registries: Registries, data: Path) -> dict[str, Any]:
    """What is done to a picture before the network sees it, in this order, as JSON."""
    benchmark_class = registries.benchmarks.load(spec.benchmark.name)
    benchmark = benchmark_class(benchmark_class.Config(**spec.benchmark.config), data)
    config = benchmark.config
    mean, std = ([0.0] * 3, [1.0] * 3) if config.normalize == "none" else map(list, statistics_of(config.normalize))
    return {
        "turned_by_exif_and_put_on_white": benchmark.upright,
        "central_square": benchmark.kept_side,
        "resize_shorter_side": None if config.test_squeeze else config.test_resize,
        **({"resize_to_square": config.test_resize} if config.test_squeeze else {}),
        "image_size": config.image_size,
        "interpolation": config.test_interpolation,
        "scale": "divided by 255",
        "mean": mean,
        "std": std,
    }


def _protocol(benchmark: Component) -> str:
    """Settings of a benchmark beside its transforms, which ``Preprocessing`` has."""
    shown = ("tasks", "split", "stop_after", "limit", "holdout", "class_order")
    return ", ".join(f"{name} {value}" for name in shown if (value := benchmark.config.get(name)))


def _where_backbone_is(backbone: Any) -> str:
    if getattr(backbone, "ships", False):
        return "The backbone comes with it."
    return f"The backbone is looked for in `data/`, where `smope-bench data prepare {backbone.name}` puts it."


def _card(kept: KeptModel, spec: RunSpec, registries: Registries, preprocessing: Mapping[str, Any]) -> str:
    """The model card, Markdown."""
    record = kept.record
    method = registries.methods.load(spec.method.name)
    sources = list(dict.fromkeys(registries.benchmarks.load(one.name).card for one in spec.benchmarks))
    title = " and ".join(card.title for card in sources)
    backbone = registries.backbones.load(spec.backbone.name)
    accuracy = final_average_accuracy(record["accuracy_matrix"])
    flags = [name.replace("_", " ") for name, is_set in (record.get("flags") or {}).items() if is_set]
    tasks, classes = record["model"]["tasks"], record["class_names"]
    settings = "\n".join(
        f"- `{key}`: {value}" for key, value in sorted({**spec.schedule, **spec.method.config}.items())
    )
    lines = [
        f"# {method.card.title} on {title}",
        "",
        f"A continual learner: {method.card.summary}. It learnt {len(classes)} classes in {len(tasks)} tasks on a frozen"
        f" backbone, `{spec.backbone.name}` ({backbone.summary}). The folder has what was learnt, not the backbone.",
        "",
        "| | |",
        "|---|---|",
        f"| run | `{kept.run_id}`, smope-bench {record['provenance'].get('project')} |",
        *(f"| data | {card.title}: {card.summary} ({card.source}) |" for card in sources),
        *(f"| protocol | {_protocol(one)} |" for one in spec.benchmarks),
        *(
            [f"| extends | run `{spec.parent.run_id}`, which learnt the first {spec.parent.tasks} tasks |"]
            if spec.parent
            else []
        ),
        f"| final average accuracy | {accuracy:.2f} % on the test images of all tasks |",
        f"| seeds | class order {spec.order_seed}, training {spec.train_seed} |",
        f"| precision | {spec.precision} |",
        f"| weights of the backbone | SHA-256 `{spec.backbone.sha256}` |",
        f"| remarks | {', '.join(flags) or 'none'} |",
        "",
        "## Recipe",
        "",
        settings,
        "",
        "## Preprocessing",
        "",
        *(f"- {key.replace('_', ' ')}: {value}" for key, value in preprocessing.items()),
        "",
        "## Licences",
        "",
        *(f"- images of {card.title}: {card.licence}" for card in sources),
        f"- backbone: {getattr(backbone, 'licence', '') or 'not known'}",
        "- code: MIT",
        *([f"- method: {method.card.paper} ({method.card.paper_url})"] if method.card.paper else []),
        "",
        "## Use",
        "",
        f"`{PROGRAM}` needs an environment with smope-bench {_version(kept)}: the method changes the backbone's blocks, so"
        " that no other library has it.",
        _where_backbone_is(backbone),
        "",
        "```bash",
        f"python {PROGRAM} picture.png",
        "```",
        "",
    ]
    return "\n".join(lines)
