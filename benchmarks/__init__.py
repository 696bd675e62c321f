"""Data sets with a continual-learning protocol."""

if __name__ != "smope_bench.benchmarks":
    raise ImportError(
        f"{__name__!r} is smope_bench.benchmarks now; plugins write `from smope_bench.api import …`, see docs/add-a-method.md"
    )

BUILTIN: dict[str, str] = {
    "cifar100": "smope_bench.benchmarks.datasets.published.cifar100:Cifar100",
    "cub200": "smope_bench.benchmarks.datasets.published.cub200:Cub200",
    "digits": "smope_bench.benchmarks.datasets.digits:Digits",
    "domain_folder": "smope_bench.benchmarks.datasets.folders.domain_folder:DomainFolder",
    "domainnet": "smope_bench.benchmarks.datasets.published.domainnet:DomainNet",
    "domainnet_200": "smope_bench.benchmarks.datasets.published.domainnet:DomainNet200",
    "domainnet_classes": "smope_bench.benchmarks.datasets.published.domainnet:DomainNetClasses",
    "emoji_r": "smope_bench.benchmarks.datasets.emoji_r:EmojiR",
    "fashion_mnist": "smope_bench.benchmarks.datasets.published.fashion_mnist:FashionMnist",
    "five_datasets": "smope_bench.benchmarks.datasets.published.five_datasets:FiveDatasets",
    "glyph_domains": "smope_bench.benchmarks.datasets.glyph_domains:GlyphDomains",
    "glyphs": "smope_bench.benchmarks.datasets.glyphs:Glyphs",
    "imagefolder": "smope_bench.benchmarks.datasets.folders.image_folder:ImageFolder",
    "imagenet_a": "smope_bench.benchmarks.datasets.published.imagenet_a:ImageNetA",
    "imagenet_r": "smope_bench.benchmarks.datasets.published.imagenet_r:ImageNetR",
    "small_sets": "smope_bench.benchmarks.datasets.small_sets:SmallSets",
}
