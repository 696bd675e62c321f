"""Data sets with a continual-learning protocol. The table names them without importing anything."""

BUILTIN: dict[str, str] = {
    "cifar100": "benchmarks.cifar100:Cifar100",
    "cub200": "benchmarks.cub200:Cub200",
    "digits": "benchmarks.digits:Digits",
    "fashion_mnist": "benchmarks.fashion_mnist:FashionMnist",
    "glyphs": "benchmarks.glyphs:Glyphs",
    "imagefolder": "benchmarks.imagefolder:ImageFolder",
    "imagenet_r": "benchmarks.imagenet_r:ImageNetR",
}
