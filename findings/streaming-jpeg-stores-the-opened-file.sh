#!/usr/bin/env bash
# mosaicml-streaming 0.13.0 (PyPI): MDSWriter stores a JPEG as it was opened from its file, not as it is.
#
# Expected by most: a column "jpeg" stores the PIL image that is written: a photo shrunk to 32 x 32 with thumbnail(), or with a patch
#       painted over, is read back small, or with the patch.
# Seen: an image that PIL opened from a .jpg file keeps its class and file name through changes in place (thumbnail, paste, ImageDraw), and
#       then the bytes of that file are stored: 256 x 256 pixels, no patch, no warning. A copy() of the same image is stored as it is; so
#       is one changed by resize(), which returns a new image, and every image opened from a .png file.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.14.1" "torchvision==0.29.1" "numpy==2.1.3" "pillow==13.0.0" "transformers==4.57.3"
venv/bin/pip install -q "brotli==1.2.1" "python-snappy==0.7.3" "zstd==1.5.7.2" "xxhash==3.6.0" "catalogue==2.0.10" "tqdm==4.70.1"
venv/bin/pip install -q --no-deps "mosaicml-streaming==0.13.0"
cat >look.py <<'PYTHON'
import sys
from importlib.metadata import version

from PIL import Image
from streaming import MDSWriter, StreamingDataset

print(f"mosaicml-streaming {version('mosaicml-streaming')}, pillow {version('pillow')}")
Image.new("RGB", (256, 256), "white").save("photo.jpg")
small, patched, copied = (Image.open("photo.jpg") for _ in range(3))
small.thumbnail((32, 32))
patched.paste("black", (0, 0, 128, 128))
copied = copied.copy()
copied.thumbnail((32, 32))
written = {"thumbnail": small, "patch": patched, "copy, thumbnail": copied}
with MDSWriter(out="shards", columns={"image": "jpeg", "label": "int"}) as writer:
    for label, image in enumerate(written.values()):
        writer.write({"image": image, "label": label})
read = {name: sample["image"] for name, sample in zip(written, StreamingDataset(local="shards", batch_size=1))}
seen = {}
for name, image in written.items():
    seen[name] = [(each.size[0], each.getpixel((5, 5))[0]) for each in (image, read[name])]
    print(f"{name}: (width, grey value of a corner) written {seen[name][0]}, read {seen[name][1]}")
wanted = {"thumbnail": [(32, 255), (256, 255)], "patch": [(256, 0), (256, 255)], "copy, thumbnail": [(32, 255), (32, 255)]}
sys.exit(seen != wanted)
PYTHON
venv/bin/python look.py
