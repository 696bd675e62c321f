"""``describe`` shows every setting, recipe, source, licence and size, and finds what a mistyped name may have meant."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel
from rich.console import Console

from smope_bench import run_all
from smope_bench.benchmarks import BUILTIN as BENCHMARKS
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.cli.commands import describe
from smope_bench.harness.facts.one import backbone_facts, find_facts
from smope_bench.harness.facts.prompt_mass import prompt_mass_facts, prompt_mass_words
from smope_bench.harness.planning.settings import has_field, parse_setting, validated
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.methods import BUILTIN as METHODS
from smope_bench.methods.common.backbone.backbones import BUILTIN as BACKBONES
from smope_bench.methods.common.backbone.backbones import MICRO, RandomBackbone, StoredBackbone
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.recipes import RECIPES

PLUGIN = """
from pydantic import Field
from smope_bench.api import Method, MethodCard, MethodConfig


class MineConfig(MethodConfig):
    width: int | None = Field(default=None, ge=1, le=9, description="how [wide] it is")
    bare: float = 2.0


class Mine(Method):
    name = "mine"
    card = MethodCard(title="Mine", summary="[red]loud[/]")
    Config = MineConfig
"""


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


def undescribed(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Fields, nested ones too, without a description; ``kind`` only names its form."""
    for name, info in model.model_fields.items():
        if not info.description and name != "kind":
            yield f"{path}{name}"
        for inner in models(info.annotation):
            yield from undescribed(inner, f"{path}{name}.")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_setting_of_a_method_has_a_description(name: str, registries: Registries) -> None:
    assert list(undescribed(registries.methods.load(name).Config)) == []


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_setting_of_a_benchmark_has_a_description(name: str, registries: Registries) -> None:
    assert list(undescribed(registries.benchmarks.load(name).Config)) == []


def test_every_setting_of_the_schedule_has_a_description() -> None:
    assert list(undescribed(Schedule)) == []


def facts_of(name: str, data: Path, *plugins: Path) -> dict[str, dict[str, Any]]:
    """Facts by kind."""
    return {facts["kind"]: facts for facts in find_facts(name, data, plugins)}


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_shows_every_setting_and_every_recipe(name: str, registries: Registries, tmp_path: Path) -> None:
    method = registries.methods.load(name)
    facts = facts_of(name, tmp_path)["method"]
    shown = {row["setting"]: row["default"] for row in facts["settings"] if not row["setting"].endswith(".*")}
    defaults = method.Config().model_dump(mode="json")
    # A dump, which is a run's identity, leaves some out while they have their default; a description never does.
    unstated = {key: method.Config.model_fields[key].default for key in method.Config.unstated_defaults}
    assert shown == {f"{name}.{key}": value for key, value in leaves(defaults | unstated)}
    assert {row["setting"] for row in facts["schedule"]} == {f"schedule.{key}" for key in Schedule.model_fields}
    own = [recipe for recipe in RECIPES if recipe.method == name]
    assert {recipe.source for recipe in own} == {row["source"] for row in facts["recipes"]}
    for row in facts["recipes"]:
        method.Config(**row["settings"])
        Schedule(**row["schedule"])
    assert facts["summary"] == method.card.summary and facts["owner"] == "built-in"


@pytest.mark.parametrize("name", ["hide_prompt", "smope", "ranpac"])
def test_defaults_can_be_given_by_set(name: str, registries: Registries, tmp_path: Path) -> None:
    config = registries.methods.load(name).Config
    for row in facts_of(name, tmp_path)["method"]["settings"]:
        if not row["setting"].endswith(".*"):
            default = row["default"] if isinstance(row["default"], str) else json.dumps(row["default"])
            setting = parse_setting(f"{row['setting']}={default}")
            assert has_field(config, setting.path[1:])
            if len(setting.path) == 2:
                assert validated(config, {setting.path[1]: setting.value}, name) == config()


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_benchmark_shows_licence_size_and_settings(name: str, registries: Registries, tmp_path: Path) -> None:
    benchmark = registries.benchmarks.load(name)
    facts = facts_of(name, tmp_path)["benchmark"]
    assert facts["facts"]["licence"] == benchmark.card.licence
    assert facts["facts"]["images from"] == benchmark.card.source
    settings = {row["setting"] for row in facts["settings"]}
    for field in benchmark.Config.model_fields.keys() - {"augment"}:
        assert f"benchmark.{field}" in settings
    assert "benchmark.augment.kind" in settings
    for row in facts["settings"]:
        if row["setting"] == "benchmark.test_families":
            assert row["allowed"].endswith("| streamline"), "the names as they are given"
    crops = [row for row in facts["settings"] if row.get("only_with") == "benchmark.augment.kind=random_resized_crop"]
    assert {"benchmark.augment.scale", "benchmark.augment.flip"} <= {row["setting"] for row in crops}


def test_sizes_and_protocols_of_a_benchmark(tmp_path: Path) -> None:
    facts = facts_of("imagenet_r", tmp_path)["benchmark"]["facts"]
    assert (facts["classes"], facts["images"], facts["download"]) == (
        "200",
        "24,000 for training, 6,000 for test",
        "2.2 GB",
    )
    assert facts["state"] == f"not prepared: smope-bench data prepare imagenet_r --data {tmp_path}"
    assert any(line.startswith("50 tasks: imagenet_r_50") for line in facts["protocols in suites"])


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_backbone_shows_hash_and_places(name: str, registries: Registries, tmp_path: Path) -> None:
    backbone, facts = registries.backbones.load(name), facts_of(name, tmp_path)["backbone"]
    assert facts["summary"] == backbone.summary
    assert facts["facts"]["licence"] == backbone.licence != ""
    if files := getattr(backbone, "files", ()):
        assert facts["facts"]["weights"] == f"not prepared: smope-bench data prepare {name} --data {tmp_path}"
        assert str(tmp_path / "weights" / "downloads" / files[0]) in facts["facts"]["looked for in"][0]
        assert facts["facts"]["download"] == f"{backbone.megabytes} MB"
    else:
        assert backbone.sha256 in facts["facts"]["hash"]


@pytest.mark.parametrize("name", sorted(SUITES))
def test_a_suite_shows_rows_columns_and_runs(name: str, tmp_path: Path) -> None:
    suite, facts = SUITES[name], facts_of(name, tmp_path)["suite"]
    assert [row["label"] for row in facts["rows"]] == [row.label for row in suite.rows]
    assert len(facts["columns"]) == len(suite.full) + len(suite.tiny)
    if not suite.counts_only:
        assert facts["runs"]["full"] == len(suite.rows) * len(suite.full) * len(suite.seeds)


def test_runs_of_table_1(tmp_path: Path) -> None:
    assert facts_of("table1", tmp_path)["suite"]["facts"]["runs"] == "150 in its full form; 100 in its tiny form"


def test_executors_and_metrics(tmp_path: Path) -> None:
    assert facts_of("slurm", tmp_path)["executor"]["facts"] == {"where": "cluster", "takes": "--slurm"}
    assert facts_of("faa", tmp_path)["metric"]["facts"]["better"] == "higher"


def test_a_plugin_is_described_and_its_text_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN, encoding="utf-8")
    assert run_all.main(["describe", "mine", "--plugin", str(file)]) == 0
    out = capsys.readouterr().out
    assert "Mine: [red]loud[/]" in out and "how [wide] it is" in out and "plugin 'mine.py'" in out
    assert "mine.width = null  (whole number from 1 to 9 or null)" in out and "mine.bare = 2.0  (number)" in out
    assert "generic: not tuned for this combination" in out


def test_a_name_of_two_kinds_shows_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["describe", "glyphs", "--data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("glyphs is a benchmark and a suite; all are shown.")
    assert run_all.main(["describe", "glyphs", "--json", "--data", str(tmp_path)]) == 0
    assert [facts["kind"] for facts in json.loads(capsys.readouterr().out)] == ["benchmark", "suite"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smop", "did you mean 'smope' (method), 'smoke' (suite)"),
        ("sup21", "'sup21k' (backbone)"),
        ("Table1", "'table1' (suite)"),
        ("xyzzy", "nothing is called 'xyzzy'. smope-bench list methods"),
        ("foo", "nothing is called 'foo'. smope-bench list methods"),
        ("\x1b[31m", "nothing is called"),
    ],
)
def test_an_unknown_name_gets_the_nearest_of_all_kinds(
    name: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_all.main(["describe", name]) == 2
    error = capsys.readouterr().err
    assert hint in error and "\x1b" not in error


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("name", ["hide_prompt", "cub200", "sup21k", "table6", "local", "faa"])
def test_no_line_is_wider_than_the_terminal(
    name: str, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    console = Console(file=file, highlight=False, force_terminal=True, color_system=None, width=width)
    monkeypatch.setattr(describe, "make_console", lambda: console)
    assert run_all.main(["describe", name, "--data", str(tmp_path)]) == 0
    lines = file.getvalue().splitlines()
    assert lines[0].startswith(name) and max(len(line) for line in lines) <= width


@dataclass(frozen=True)
class Biased(RandomBackbone):
    """The micro backbone with key biases along its query biases, as if it had been trained so."""

    size: float = 0.0

    def load(self) -> PromptedViT:
        vit = super().load()
        for attention in vit.attentions:
            bias: Any = attention.qkv.bias
            bias.data.view(3, -1)[:2] = self.size * torch.tensor([1.0, -1.0]).repeat(12)
        return vit


@pytest.mark.parametrize("size", [0.0, 5.0])
def test_a_backbone_with_large_key_biases_is_warned_of(size: float, registries: Registries, tmp_path: Path) -> None:
    made = Biased("biased", "made up", MICRO.architecture, is_random=False, size=size)
    registries.backbones.add(made.name, "tests", made)
    found = backbone_facts(registries, made.name, tmp_path)
    assert found["prompt_mass"]["key_bias_norms"] == pytest.approx([size * 24**0.5] * 6)
    assert len(found["prompt_mass"]["shares"]) == 6 and all(0 <= one < 100 for one in found["prompt_mass"]["shares"])
    assert ("prompts are nearly inert here" in str(found["facts"]["prompt mass"])) == (size > 0)
    assert found["facts"]["key biases"].startswith(f"{' '.join([f'{size * 24**0.5:.3g}'] * 6)}, norm by block;")


def test_a_backbone_whose_weights_do_not_load_is_described_all_the_same(tmp_path: Path) -> None:
    description = tmp_path / "gone.json"
    description.write_text(json.dumps({"sha256": "0", "architecture": MICRO.architecture}), encoding="utf-8")
    found = prompt_mass_facts(StoredBackbone("gone", "no file", description))
    assert prompt_mass_words(found)["prompt mass"].startswith("not measured: weights of backbone 'gone'")
    assert backbone_facts(open_registries(()), "tiny_random", tmp_path)["prompt_mass"] == {}


def test_published_things_are_described_without_torch() -> None:
    code = (
        "import sys; from smope_bench import run_all\n"
        "for name in ('digits', 'cub200', 'sup21k', 'table1', 'ray', 'caa'): run_all.main(['describe', name])\n"
        "print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
