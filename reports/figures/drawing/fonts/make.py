"""Writes the fonts of figures anew, from those that matplotlib brings: ``python reports/figures/drawing/fonts/make.py``."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from fontTools import subset

LETTERS = (
    *range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x370, 0x460), *range(0x2010, 0x2045), *range(0x2070, 0x20A0),
    0x20AC, *range(0x2190, 0x2196), 0x2206, 0x2211, 0x2212, 0x2213, 0x221A, 0x221E, 0x2248, 0x2260, 0x2264, 0x2265, 0xFFFD,
)  # fmt: skip
"""Latin, Greek and Cyrillic letters, punctuation, raised and lowered digits, arrows, and signs of formulas."""


def make(source: Path, target: Path) -> None:
    """Write ``LETTERS`` of a font, kerned as in the whole one, under a family name of its own."""
    options = subset.Options(hinting=False, layout_features=["kern"], name_IDs=[0, 1, 2, 4, 6], notdef_outline=True)
    options.drop_tables += ["FFTM", "GDEF", "GSUB", "MATH"]
    font = subset.load_font(str(source), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=LETTERS)
    subsetter.subset(font)
    names = font["name"]
    for name in names.names:
        if name.nameID in (1, 3, 4, 6):
            text = str(name).replace("DejaVu Sans", "DejaVu Sans Latin").replace("DejaVuSans", "DejaVuSansLatin")
            names.setName(text, name.nameID, name.platformID, name.platEncID, name.langID)
    head: Any = font["head"]
    head.modified = head.created
    font.recalcTimestamp = False
    font.save(target)


if __name__ == "__main__":
    found = Path(mpl.get_data_path()) / "fonts" / "ttf"
    here = Path(__file__).parent
    for style in ("", "-Bold"):
        make(found / f"DejaVuSans{style}.ttf", here / f"DejaVuSansLatin{style}.ttf")
    (here / "LICENSE.txt").write_bytes((found / "LICENSE_DEJAVU").read_bytes())
