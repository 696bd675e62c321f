"""docs/backbones.md: its commands do what the page says they do."""

from __future__ import annotations

from pathlib import Path

from tests.methods.common.pretrained_files.sample_files import (  # pyright: ignore[reportMissingImports]
    timm_bin,
    timm_safetensors,
    weights,
)
from tests.page_blocks import BLOCK, ROOT, assert_shown, run_shell  # pyright: ignore[reportMissingImports]


def test_the_page_is_followed(tmp_path: Path) -> None:
    timm_safetensors(tmp_path / "my_vit.safetensors", weights(seed=3))
    timm_bin(tmp_path / "the_same.pth", weights(seed=3))
    output, ran = "", 0
    for status, language, block in BLOCK.findall((ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")):
        if language == "bash":
            output, ran = run_shell(block, tmp_path, int(status or 0)), ran + 1
        elif language == "yaml":
            (tmp_path / block.split()[1]).write_text(block)
        else:
            assert language == "text"
            assert_shown(block, output)
    assert ran == 5
    assert len(list((tmp_path / "data" / "weights").glob("vit-*.json"))) == 2  # the suite assumes one head
