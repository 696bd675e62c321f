import gc
import importlib.metadata
import os
import pickle
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from smope_bench.api import Method, MethodCard
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry import plugins as plugin_loading
from smope_bench.harness.registry import registry as registry_module
from smope_bench.harness.registry.registry import Registries, Registry, add_plugin, uncollected

PLUGIN = """
    from __future__ import annotations
    from smope_bench.api import Method, MethodConfig

    class ShoutConfig(MethodConfig):
        volume: float = 1.0

    class Base(Method):
        pass

    class Shout(Base):
        name = "shout"
        Config = ShoutConfig

    class Quiet(Shout):  # inherits its name only: a helper, not a method of its own
        pass
"""


def write_plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def empty_registries() -> Registries:
    return Registries(Registry("method", {}), Registry("benchmark", {}), Registry("backbone", {}))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Pretend that packages with these entry points are installed."""

    def install(*points: EntryPoint) -> None:
        monkeypatch.setattr(plugin_loading, "entry_points", lambda group: [p for p in points if p.group == group])

    return install


def test_names_are_sorted_and_nothing_is_imported_for_them() -> None:
    table = Registry("method", {"zeta": "no_such_module:X", "alpha": "neither.this:Y"})
    assert table.names() == ["alpha", "zeta"]


def test_load_follows_the_table() -> None:
    assert Registry("method", {"order": "collections:OrderedDict"}).load("order").__name__ == "OrderedDict"


def test_an_unknown_name_is_answered_with_a_near_one() -> None:
    with pytest.raises(UserError, match=r"unknown benchmark 'digit'; did you mean 'digits'\? Known: digits, glyphs\."):
        Registry("benchmark", {"digits": "a:b", "glyphs": "a:b"}).load("digit")


def test_a_built_in_that_cannot_be_imported_is_not_blamed_on_the_user() -> None:
    with pytest.raises(ModuleNotFoundError):
        Registry("method", {"broken": "no_such_module:X"}).load("broken")


def test_an_installed_package_adds_a_name(installed) -> None:
    installed(EntryPoint("extra", "collections:Counter", "g"), EntryPoint("other", "x:y", "another group"))
    table = Registry("method", {"order": "collections:OrderedDict"}, "g")
    assert table.names() == ["extra", "order"]
    assert table.load("extra").__name__ == "Counter"


def test_a_broken_package_is_listed_with_its_error_and_hurts_nothing_else(installed) -> None:
    installed(EntryPoint("bad", "no_such_module:X", "g"))
    table = Registry("method", {"order": "collections:OrderedDict"}, "g")
    rows = {row.name: row for row in table.listing()}
    assert rows["bad"].value is None
    assert "ModuleNotFoundError: No module named 'no_such_module'" in str(rows["bad"].error)
    assert rows["order"].value is not None and rows["order"].error is None
    with pytest.raises(UserError, match="'bad' of entry point 'no_such_module:X' cannot be imported"):
        table.load("bad")


def test_all_that_can_be_loaded_leaves_out_what_cannot(installed) -> None:
    points = [("bad", "no_such_module:X"), ("order", "x:y"), ("extra", "collections:Counter")]
    installed(*(EntryPoint(name, target, "g") for name, target in points))
    table = Registry("method", {"order": "collections:OrderedDict", "chain": "collections:ChainMap"}, "g")
    assert table.loadable_names() == ["chain", "extra"]


UNUSABLE = ["a,b", "a b", "-a", ".a", "a=b", "a/b", "", "a" * 61, "a\nb", "\x1b[2J"]


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_name_that_cannot_be_chosen_is_refused(name: str, installed, tmp_path: Path) -> None:
    text = PLUGIN.replace('"shout"', repr(name))
    with pytest.raises(UserError, match=r"plugin 'mine.py' names a method '.*', which cannot be chosen: use") as caught:
        add_plugin(empty_registries(), write_plugin(tmp_path, text))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    installed(EntryPoint(name, "collections:Counter", "g"))
    (row,) = Registry("method", {}, "g").listing()
    assert row.value is None and "which cannot be chosen: use letters" in str(row.error)


@pytest.mark.parametrize("name", ["l2p++", "a.b-c", "2nd", "_x", "é", "a" * 60])
def test_names_that_can_be_chosen(name: str, installed, tmp_path: Path) -> None:
    assert add_plugin(empty_registries(), write_plugin(tmp_path, PLUGIN.replace('"shout"', repr(name)))) == [name]
    installed(EntryPoint(name, "collections:Counter", "g"))
    assert Registry("method", {}, "g").loadable_names() == [name]


def test_a_name_claimed_twice_names_both_owners_and_leaves_other_names_alone(installed) -> None:
    installed(EntryPoint("order", "collections:Counter", "g"))
    table = Registry("method", {"order": "collections:OrderedDict", "chain": "collections:ChainMap"}, "g")
    with pytest.raises(
        UserError, match="'order' is defined twice, by built-in and by entry point 'collections:Counter'"
    ):
        table.load("order")
    assert table.load("chain").__name__ == "ChainMap"


def test_a_plugin_file_adds_exactly_the_classes_it_names(tmp_path: Path) -> None:
    registries = empty_registries()
    assert add_plugin(registries, write_plugin(tmp_path, PLUGIN)) == ["shout"]
    method = registries.methods.load("shout")
    assert method.Config().volume == 1.0
    assert registries.methods.owner("shout") == "plugin 'mine.py'"
    assert registries.benchmarks.names() == []


def test_a_plugin_cannot_take_a_taken_name(tmp_path: Path) -> None:
    registries = empty_registries()
    registries.methods.add("shout", "built-in", object)
    with pytest.raises(
        UserError, match=r"'shout' of plugin 'mine.py' already exists, from built-in: choose another name"
    ):
        add_plugin(registries, write_plugin(tmp_path, PLUGIN))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "mine.py' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "from .parts import side",
            r"no known parent package. A file of a package .* as an entry point .*without the dot$",
        ),
        ("def broken(:\n    pass", r"mine.py' cannot be imported: SyntaxError: .*line 1"),
        ("raise SystemExit(3)", "mine.py' cannot be imported: SystemExit: 3"),
        ("raise BaseException('odd')", "mine.py' cannot be imported: BaseException: odd"),
        ("raise ValueError('a\\x1b[31m\\nb')", "cannot be imported: ValueError: a�\\[31m b"),
        ("x = '\\0'\x00", "mine.py' cannot be imported: "),
        ("x = 1", "mine.py' defines nothing to add: write a subclass of smope_bench.api.Method"),
        ("from smope_bench.api import Method", "defines nothing to add"),
        ("from smope_bench.harness.metrics import final_average_accuracy", "defines nothing to add"),
        ("from smope_bench.methods.common.backbone.backbones import TINY", "defines nothing to add"),
        ("from smope_bench.methods.smope import SMoPE", "defines nothing to add"),
        ("from smope_bench.harness.executors.local import run_serially", "defines nothing to add"),
    ],
)
def test_a_bad_plugin_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        add_plugin(empty_registries(), write_plugin(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_or_misnamed_plugin_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.py' cannot be read: No such file or directory"):
        add_plugin(empty_registries(), tmp_path / "absent.py")
    with pytest.raises(UserError, match=r"notes.txt' is not a Python file"):
        add_plugin(empty_registries(), write_plugin(tmp_path, "x = 1", "notes.txt"))


def test_an_edited_plugin_is_run_anew(tmp_path: Path) -> None:
    for volume in ("1.0", "2.0"):
        registries = empty_registries()
        add_plugin(registries, write_plugin(tmp_path, PLUGIN.replace("= 1.0", f"= {volume}")))
        assert registries.methods.load("shout").Config().volume == float(volume)


def test_registries_travel_to_workers_as_their_plugin_files(tmp_path: Path) -> None:
    file = write_plugin(tmp_path, PLUGIN)
    registries = registry_module.open_registries([file])
    again = pickle.loads(pickle.dumps(registries))
    assert again.plugins == (file.resolve(),)
    assert again.methods.names() == registries.methods.names()
    assert "shout" in again.methods.names()


def test_what_a_plugin_prints_does_not_mix_with_a_listing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_plugin(empty_registries(), write_plugin(tmp_path, PLUGIN + "\n    print('hello')"))
    assert capsys.readouterr() == ("", "hello\n")


def test_an_edit_is_seen_whatever_was_compiled_before(tmp_path: Path) -> None:
    """Same length, same second: what Python tells a compiled file's age by."""
    for volume in ("1.0", "2.0"):
        file = write_plugin(tmp_path, PLUGIN.replace("= 1.0", f"= {volume}"))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        registries = empty_registries()
        add_plugin(registries, file)
        assert registries.methods.load("shout").Config().volume == float(volume)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.py"]


class Leaving:
    """An entry point whose import leaves the process."""

    name, value, group = "leaves", "x:y", "g"
    dist = None

    def load(self) -> None:
        print("goodbye")
        raise SystemExit(3)


def test_an_installed_package_that_leaves_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugin_loading, "entry_points", lambda group: [Leaving()])
    rows = Registry("method", {"order": "collections:OrderedDict"}, "g").listing()
    assert [row.error for row in rows if row.name == "leaves"] == [
        "method 'leaves' of entry point 'x:y' cannot be imported: SystemExit: 3"
    ]
    assert capsys.readouterr().out == ""


def test_ctrl_c_during_an_import_is_the_users_wish() -> None:
    def load() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plugin_loading.call_outside_code(load, "never said")


def test_a_list_of_entry_points_that_cannot_be_read_hurts_its_own_package_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("good", "[g]\norder = collections:OrderedDict\n"),
        ("bad", "[g]\nno equals sign\n"),
        ("elsewhere", "[other]\nno equals sign\n"),
    ):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        (folder / "entry_points.txt").write_text(text, encoding="utf-8")
    found = list(importlib.metadata.distributions(path=[str(tmp_path)]))
    monkeypatch.setattr(plugin_loading, "distributions", lambda: found)

    def refuse(group: str) -> None:
        raise TypeError("as reading them all at once does")

    monkeypatch.setattr(plugin_loading, "entry_points", refuse)
    rows = {row.name: row for row in Registry("method", {}, "g").listing()}
    assert sorted(rows) == ["bad", "order"] and rows["order"].error is None
    assert "'bad' of package 'bad' cannot be imported: " in str(rows["bad"].error)
    assert "its list of entry points is broken" in str(rows["bad"].error)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (len, "it is of type builtin_function_or_method, not a subclass of smope_bench.api.Method"),
        (dict, "it is of type type, not a subclass of smope_bench.api.Method"),
        (type("Bare", (Method,), {"name": "x"}), "Bare has no class attribute `card` of type"),
        (type("Odd", (Method,), {"card": MethodCard("t", "s"), "Config": dict}), "Odd.Config is not a subclass of"),
        (
            type("Keeps", (Method,), {"card": MethodCard("t", "s"), "exemplars": -1}),
            "Keeps.exemplars is -1, not the number of training images",
        ),
    ],
)
def test_what_is_no_method_says_what_it_lacks(value: object, message: str) -> None:
    registries = registry_module.open_registries()
    registries.methods.add("x", "package 'p'", value)
    with pytest.raises(UserError, match=f"method 'x' of package 'p' cannot be used: {message}"):
        registries.methods.load("x")


BACKBONE = """
    from smope_bench.api import Backbone, RandomBackbone

    SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 0}
    MINE = RandomBackbone("mine", "six narrow blocks", SMALL)

    class Own(Backbone):
        name, summary, is_random = "own", "of its own", False
        sha256, architecture = "0" * 64, SMALL

        def load(self):
            return MINE.load()

    OWN = Own()
"""


def test_a_plugin_file_adds_backbones(tmp_path: Path) -> None:
    registries = registry_module.open_registries([write_plugin(tmp_path, BACKBONE)])
    assert {"mine", "own", "tiny"} <= set(registries.backbones.names())
    assert registries.backbones.owner("own") == "plugin 'mine.py'"
    assert registries.backbones.load("own").load().feature_dim == 24
    assert list(registries.sources_of("ncm", "digits", "own")) == ["backbone"]
    assert registries.sources_of("ncm", "digits", "mine") == {}  # its hash in the run's identity says all


def test_a_built_in_backbone_that_a_plugin_imports_is_not_its_own(tmp_path: Path) -> None:
    text = PLUGIN + "\n    from smope_bench.methods.common.backbone.backbones import TINY"
    assert add_plugin(registry_module.open_registries(), write_plugin(tmp_path, text)) == ["shout"]


def test_an_installed_package_adds_a_backbone_or_says_why_not(installed, tmp_path: Path) -> None:
    installed(EntryPoint("odd", "collections:Counter", "smope_bench.backbones"))
    rows = {row.name: row.error for row in registry_module.open_registries().backbones.listing()}
    fault = "it is of type type, not an instance of smope_bench.api.Backbone"
    assert rows["odd"] == f"backbone 'odd' of entry point 'collections:Counter' cannot be used: {fault}."
    assert rows["tiny"] is None


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_waits_and_comes_back_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(KeyError), uncollected():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
