"""Selection of the pre-training characters: none that a tiny benchmark uses, and none that looks like one of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smope_bench.benchmarks.datasets.glyph_rendering import coverage, faces_with, glyph_mask, similarity
from smope_bench.benchmarks.datasets.glyphs import CHARACTERS

DIGITS = "0123456789"
FORBIDDEN = DIGITS + CHARACTERS
LOOK_ALIKE = 0.84  # correlation of masks in one face; o/O/0 reach 0.98, Latin and Cyrillic A reach 1
LOOK_ALIKE_STRETCHED = 0.83  # the same with proportions removed; kappa/K reach 0.91, yogh/3 0.90
# Listed as confusable with a digit or a glyph by Unicode (UTS 39), and drawn just differently enough to be missed.
CONFUSABLE = "ƧʒȜჳӠӡꝪƷȣȢƼƄЗзӟςلᑫ"
TWIN = 0.80  # among the pre-training classes themselves, where a twin is only a noisy label
COMPARED_FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
MAIN_FACE = "DejaVuSans"

_BLOCKS_OF_PATTERNS = (
    *("BRAILLE", "BOX DRAWINGS", "DOMINO", "TETRAGRAM", "HEXAGRAM", "PLAYING CARD", "MATHEMATICAL", "COMBINING"),
    *("VARIATION", "MODIFIER", "APL", "BLOCK", "QUADRANT", "CIRCLED", "NEGATIVE", "PARENTHESIZED", "ROMAN NUMERAL"),
    *("DIGIT", "NUMBER", "FRACTION", "CLOCK", "DIE FACE", "TRIGRAM", "DIGRAM", "SQUARE", "ARROW", "HARPOON"),
    *("PRESENTATION", "INITIAL FORM", "MEDIAL FORM", "FINAL FORM", "ISOLATED FORM", "LIGATURE", "WITH"),
)


def _is_candidate(character: str) -> bool:
    if unicodedata.category(character)[0] not in "LSP":
        return False
    name = unicodedata.name(character, "")
    if not name or any(word in name for word in _BLOCKS_OF_PATTERNS):
        return False
    # Letters with accents and compatibility forms count as their base characters.
    parts = {*unicodedata.normalize("NFKD", character)}
    parts |= {case for part in parts for case in (part.upper(), part.lower())}
    return character not in CONFUSABLE and not any(part in FORBIDDEN or part.isdigit() for part in parts)


def _most_similar(characters: Sequence[str], others: Sequence[str], *, stretch: bool = False) -> NDArray[np.float32]:
    """Greatest similarity in any compared face that has both, (len(characters), len(others))."""
    best = np.full((len(characters), len(others)), -1, dtype=np.float32)
    for face in COMPARED_FACES:
        rows = [i for i, character in enumerate(characters) if ord(character) in coverage(face)]
        columns = [i for i, character in enumerate(others) if ord(character) in coverage(face)]
        if rows and columns:
            found = similarity(face, [characters[i] for i in rows], [others[i] for i in columns], stretch=stretch)
            best[np.ix_(rows, columns)] = np.maximum(best[np.ix_(rows, columns)], found)
    return best


def look_alikes(characters: Sequence[str], *, stretch: bool = False) -> NDArray[np.float32]:
    """Greatest similarity of each character to a digit or a benchmark class, (len(characters),)."""
    return _most_similar(characters, list(FORBIDDEN), stretch=stretch).max(axis=1)


def is_look_alike(characters: Sequence[str]) -> NDArray[np.bool_]:
    """Mask of the characters that look like a digit or a benchmark class, with proportions kept or removed."""
    plain = look_alikes(characters) >= LOOK_ALIKE
    return plain | (look_alikes(characters, stretch=True) >= LOOK_ALIKE_STRETCHED)


def _rank(character: str) -> tuple[bool, bool, int, int]:
    """Sort key: characters in many faces first, then letters, whose strokes are more varied than those of punctuation."""
    faces = len(faces_with(character))
    return faces < 8, not character.isalpha(), -faces, ord(character)


def pretraining_characters(limit: int = 500) -> tuple[str, ...]:
    """The pre-training classes, at most ``limit``; deterministic for given fonts."""
    candidates = [chr(point) for point in sorted(coverage(MAIN_FACE)) if _is_candidate(chr(point))]
    candidates = [character for character in candidates if len(faces_with(character)) > 1]
    refused = is_look_alike(candidates)
    drawn = [bool(glyph_mask(MAIN_FACE, character).any()) for character in candidates]
    candidates = [each for each, bad, ink in zip(candidates, refused, drawn, strict=True) if ink and not bad]
    candidates.sort(key=_rank)
    between = _most_similar(candidates, candidates)
    kept: list[int] = []
    for row in range(len(candidates)):
        if len(kept) < limit and not (between[row, kept] >= TWIN).any():
            kept.append(row)
    return tuple(candidates[row] for row in kept)
