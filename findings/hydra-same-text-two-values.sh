#!/usr/bin/env bash
# hydra-core 1.3.8 with omegaconf 2.3.1 (PyPI): the same text is one value in the configuration file and another on the command line.
#
# Expected by most: "key: text" in the file and "key=text" on the command line, or in a sweep, are the same setting.
# Seen: the file is read with YAML 1.1's words and numbers of base 60, the command line by a grammar without them. "freeze: no" is False, and
#       freeze=no is the text "no", which is true in an if, so that a sweep freeze=yes,no runs twice the same. "seeds: 1993:0" (class
#       order and training) is 119580, and "time: 12:30:00" 45000; on the command line both are text. "gpu: 0x10" is 16, and the text
#       "0x10". "split: 50_10" is the number 5010 in both. Fields of a structured configuration, with types, take no/off for False in both.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "hydra-core==1.3.8" "omegaconf==2.3.1"
cat >look.py <<'PYTHON'
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

print(f"hydra-core {version('hydra-core')}, omegaconf {version('omegaconf')}")
texts = {"freeze": "no", "mask": "off", "seeds": "1993:0", "time": "12:30:00", "gpu": "0x10", "split": "50_10", "rate": "1e-3"}


@dataclass
class Typed:
    freeze: bool = True


ConfigStore.instance().store("typed", node=Typed)
Path("empty.yaml").write_text("{}\n")
Path("config.yaml").write_text("".join(f"{key}: {text}\n" for key, text in texts.items()))
with initialize_config_dir(str(Path.cwd()), version_base=None):
    file = OmegaConf.to_container(compose("config"))
    line = OmegaConf.to_container(compose("empty", overrides=[f"+{key}={text}" for key, text in texts.items()]))
    typed = compose("typed", overrides=["freeze=no"]).freeze
for key, text in texts.items():
    print(f"{key}: {text} is {file[key]!r} in the file, {line[key]!r} on the command line")
print(f"freeze=no for a field of type bool: {typed!r}")
held = file == {"freeze": False, "mask": False, "seeds": 119580, "time": 45000, "gpu": 16, "split": 5010, "rate": 0.001}
held = held and line == {**texts, "split": 5010, "rate": 0.001} and typed is False
sys.exit(not held)
PYTHON
venv/bin/python look.py
