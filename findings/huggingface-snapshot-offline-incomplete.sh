#!/usr/bin/env bash
# huggingface_hub 2.4.0 (PyPI): snapshot_download offline succeeds although files are missing, even when all that were asked for are.
#
# Layout: a cache after an interrupted download, with config.json but without the weights.
# Expected by most: local_files_only=True with allow_patterns="*.safetensors" fails with LocalEntryNotFoundError, as hf_hub_download does
#       for one file.
# Seen: the folder of the revision is returned as soon as it exists; what is in it is not looked at.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "huggingface_hub==2.4.0"
cat >look.py <<'PYTHON'
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

print(f"huggingface_hub {huggingface_hub.__version__}")
commit, repo = "a" * 40, Path("cache/models--some--model")
(repo / "snapshots" / commit).mkdir(parents=True)
(repo / "refs").mkdir()
(repo / "refs" / "main").write_text(commit)
(repo / "snapshots" / commit / "config.json").write_text("{}")
found = Path(snapshot_download("some/model", cache_dir="cache", local_files_only=True, allow_patterns="*.safetensors"))
print("snapshot_download of *.safetensors returned a folder with", [file.name for file in found.iterdir()])
try:
    hf_hub_download("some/model", "model.safetensors", cache_dir="cache", local_files_only=True)
except LocalEntryNotFoundError as error:
    print("hf_hub_download:", type(error).__name__)
    sys.exit(any(found.glob("*.safetensors")))
sys.exit(1)
PYTHON
HF_HUB_OFFLINE=1 venv/bin/python look.py
