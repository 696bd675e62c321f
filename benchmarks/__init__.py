"""Data sets with a continual-learning protocol. The table names them without importing anything."""

BUILTIN: dict[str, str] = {
    "digits": "benchmarks.digits:Digits",
    "glyphs": "benchmarks.glyphs:Glyphs",
    "imagefolder": "benchmarks.imagefolder:ImageFolder",
}
