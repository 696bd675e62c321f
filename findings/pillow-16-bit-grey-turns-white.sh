#!/usr/bin/env bash
# Pillow 13.0.0 (PyPI): convert("RGB") makes a 16-bit grey image white, as it cuts at 255 instead of scaling.
#
# Expected by most: Image.open(path).convert("RGB"), as most loaders of image folders have it, gives a 16-bit PNG or TIFF (X-rays, microscopes, depth)
#       with its greys scaled to 8 bits.
# Seen: every pixel above 255 of 65,535 becomes 255: of an even ramp of greys 99.6 percent are white, and all images of a class look alike to the
#       network. convert("L") does the same. There is neither error nor warning. numpy.asarray(image) has all 16 bits: divide by 257 first.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "pillow==13.0.0" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import numpy as np
import PIL
from PIL import Image

warnings.simplefilter("error")
print(f"Pillow {PIL.__version__}")
ramp = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
held = True
for suffix in ("png", "tif"):
    Image.fromarray(ramp).save(f"ramp.{suffix}")
    image = Image.open(f"ramp.{suffix}")
    kept = np.array_equal(np.asarray(image), ramp)
    white = {mode: float(np.mean(np.asarray(image.convert(mode)) == 255)) for mode in ("RGB", "L")}
    scaled = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
    right = float(np.mean(np.asarray(scaled) == 255))
    print(f"{suffix}: mode {image.mode}, all bits read: {kept}; white after convert: {white}, after scaling: {right:.4f}")
    held = held and kept and set(white.values()) == {0.99609375} and right < 0.01
sys.exit(not held)
PYTHON
venv/bin/python look.py
