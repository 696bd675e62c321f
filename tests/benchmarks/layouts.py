"""Small archives in the layouts of the original ones, byte by byte where a layout is binary.

Every class has one training and one test image. ``write_*`` functions write a file or a tree; ``tar`` packs a tree.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Tree = dict[str, bytes]
"""File name (posix, relative) to content."""


def digest(path: Path, kind: str = "md5") -> str:
    """``kind:hex`` of a file, as a Remote states it."""
    return f"{kind}:{hashlib.new(kind, path.read_bytes()).hexdigest()}"


def tar(path: Path, tree: Mapping[str, bytes]) -> Path:
    """Pack a tree as ``.tar``, or as ``.tar.gz`` and ``.tgz`` by its name, with the folders that real archives have."""
    mode = "w:gz" if path.suffix in (".gz", ".tgz") else "w"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        inside = [name for name in tree if "/" in name and not name.startswith((".", "/"))]
        for folder in sorted({str(Path(name).parent) for name in inside} | {name.split("/")[0] for name in inside}):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name, data in tree.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def unpack(root: Path, tree: Mapping[str, bytes]) -> Path:
    """Write a tree below ``root``."""
    for name, data in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


# ---------------------------------------------------------------------------------------------------- CIFAR-100

CIFAR_NAMES = tuple(f"thing_{label:02d}" for label in range(100))


def cifar100(labels: Sequence[int] | None = None) -> Tree:
    """``cifar-100-python/{train,test,meta}``: pickles of protocol 2 as Python 2 wrote them.

    The training image of class c has the pixel (c, row, column) everywhere, the test image (c, column, row).
    """
    fine = list(range(100)) if labels is None else list(labels)
    tree = {
        f"cifar-100-python/{split}": python2_pickle(
            {
                "filenames": [f"{split}_{image}.png" for image in range(len(fine))],
                "batch_label": f"{split}ing batch 1 of 1",
                "fine_labels": fine,
                "coarse_labels": [label % 20 for label in fine],
                "data": cifar_rows(split, fine),
            }
        )
        for split in ("train", "test")
    }
    meta = {"fine_label_names": list(CIFAR_NAMES), "coarse_label_names": [f"kind_{label}" for label in range(20)]}
    return {**tree, "cifar-100-python/meta": python2_pickle(meta), "cifar-100-python/file.txt~": b""}


def cifar_rows(split: str, labels: Sequence[int]) -> NDArray[np.uint8]:
    """Uint8 (n, 3072): all red values row by row, then green, then blue."""
    ramp = np.broadcast_to(np.arange(32)[:, None], (32, 32))
    green, blue = (ramp, ramp.T) if split == "train" else (ramp.T, ramp)
    rows = [np.concatenate([np.full(1024, label), green.ravel(), blue.ravel()]) for label in labels]
    return np.array(rows).astype(np.uint8)


def python2_pickle(value: object) -> bytes:
    """Protocol 2 with the opcodes of Python 2's ``cPickle``: text and array data are byte strings."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: object) -> bytes:
    match value:
        case dict():
            return b"}(" + b"".join(_pickled(key) + _pickled(item) for key, item in value.items()) + b"u"
        case list():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(_pickled, value)) + b"t"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case str():
            return _pickled(value.encode("latin1"))
        case bytes():
            short = len(value) < 256
            return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value
        case np.ndarray():
            made = (
                b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _pickled((0,)) + _pickled("b") + b"\x87R"
            )
            kind = b"cnumpy\ndtype\n" + _pickled((value.dtype.str[1:], 0, 1)) + b"R"
            order = "|" if value.dtype.itemsize == 1 else "<"
            kind += _pickled((3, order, None, None, None, -1, -1, 0)) + b"b"
            state = (
                b"(" + _pickled(1) + _pickled(value.shape) + kind + _pickled(False) + _pickled(value.tobytes()) + b"t"
            )
            return made + state + b"b"
    raise TypeError(f"no layout needs a {type(value).__name__}")


# ------------------------------------------------------------------------------------------------- Fashion-MNIST

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx(array: NDArray[np.uint8]) -> bytes:
    """The IDX form of an array of bytes: two zeros, 8 for bytes, the number of axes, their lengths, the values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def fashion_mnist(per_class: int = 1, classes: int = 10) -> Tree:
    """The four IDX files, not compressed. Training image j of class c is 10 c + j + column, the test image one more."""
    labels = np.tile(np.arange(classes, dtype=np.uint8), per_class)
    images = (10 * labels + np.arange(len(labels)) // classes)[:, None, None] + np.arange(28)[None, None, :]
    tree = {}
    for extra, (image_file, label_file) in enumerate(IDX_FILES.values()):
        pixels = np.broadcast_to(images + extra, (len(labels), 28, 28)).astype(np.uint8)
        tree |= {image_file: idx(pixels), label_file: idx(labels)}
    return tree


def zipped(tree: Mapping[str, bytes]) -> Tree:
    """Each file as ``gzip`` writes it, with a fixed time."""
    return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in tree.items()}


# ---------------------------------------------------------------------------------------------- pictures in folders


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (40, 32)) -> bytes:
    """A JPEG file of one colour, (width, height) pixels."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def imagenet_r(classes: Iterable[str], per_class: int = 2, size: tuple[int, int] = (40, 32)) -> Tree:
    """``imagenet-r/<wnid>/<style>_<n>.jpg`` beside a README.txt; image j of the c-th class has the colour (c, 40 j, 9)."""
    tree: Tree = {"imagenet-r/README.txt": b"what the folders are\n"}
    for label, wnid in enumerate(sorted(classes)):
        for image in range(per_class):
            tree[f"imagenet-r/{wnid}/{('art', 'sketch')[image % 2]}_{image}.jpg"] = jpeg((label, 40 * image, 9), size)
    return tree


def split_list(entries: Sequence[tuple[str, int]]) -> bytes:
    """A split list as CODA-Prompt publishes it: two YAML lists, (path below ``data/``, class id)."""
    lines = ["data:", *(f"- data/{name}" for name, _ in entries), "targets:", *(f"- {label}" for _, label in entries)]
    return ("\n".join(lines) + "\n").encode()


def cub200(classes: int = 200, per_class: int = 2, size: tuple[int, int] = (40, 32)) -> Tree:
    """``CUB_200_2011/`` with its text files; the first image of each class trains, the others test.

    Ids, names and the order of the lines are as in the archive: ids from 1, one line a picture. Image j of the class with
    official id c has the colour (c, 40 j, 3).
    """
    images, labels, split, names = [], [], [], []
    tree: Tree = {}
    for label in range(1, classes + 1):
        names.append(f"{label} {label:03d}.Bird_{label}")
        for image in range(per_class):
            number = len(images) + 1
            file = f"{label:03d}.Bird_{label}/Bird_{label}_{image:04d}_{796000 + number}.jpg"
            tree[f"CUB_200_2011/images/{file}"] = jpeg((label, 40 * image, 3), size)
            images.append(f"{number} {file}")
            labels.append(f"{number} {label}")
            split.append(f"{number} {int(image == 0)}")
    texts = {"images": images, "image_class_labels": labels, "train_test_split": split, "classes": names}
    for name, lines in texts.items():
        tree[f"CUB_200_2011/{name}.txt"] = ("\n".join(lines) + "\n").encode()
    return {
        **tree,
        "CUB_200_2011/README": b"about\n",
        "CUB_200_2011/attributes/certainties.txt": b"1 not visible\n",
        "attributes.txt": b"1 has_bill_shape::curved_(up_or_down)\n",
    }


# --------------------------------------------------------------------------------------- benchmarks over such files


def over(benchmark: type, files: Mapping[str, Path], **changes: object) -> type:
    """The same benchmark, expecting ``files`` (by the published name) and finding them at ``file://`` addresses.

    What the real one knows of the real files is replaced; everything else is the code that users run.
    """
    remotes = []
    for remote in benchmark.remotes:  # type: ignore[attr-defined]
        path = files[remote.name]
        known = digest(path, "sha256") if remote.digest is not None else None
        remotes.append(replace(remote, urls=(path.as_uri(),), digest=known, size=path.stat().st_size))
    return type(benchmark.__name__, (benchmark,), {"remotes": tuple(remotes), "__module__": __name__, **changes})


def md5s(tree: Mapping[str, bytes], names: Iterable[str], below: str) -> dict[str, str]:
    """Md5 of some files of a tree."""
    return {name: hashlib.md5(tree[f"{below}/{name}"]).hexdigest() for name in names}


def cifar100_over(benchmark: type, folder: Path, tree: Tree) -> type:
    """``cifar100`` over ``<folder>/cifar-100-python.tar.gz``, which is written."""
    archive = tar(folder / "cifar-100-python.tar.gz", tree)
    present = [name for name in ("train", "test", "meta") if f"cifar-100-python/{name}" in tree]
    known = dict.fromkeys(("train", "test", "meta"), "") | md5s(tree, present, "cifar-100-python")
    return over(benchmark, {archive.name: archive}, digests=known)


def imagenet_r_over(benchmark: type, folder: Path, tree: Tree, wnids: Sequence[str]) -> type:
    """``imagenet_r`` over an archive and lists below ``folder``: pictures ``_0`` train, all others test."""
    archive = tar(folder / "imagenet-r.tar", tree)
    names = [name for name in tree if name.count("/") == 2 and name.split("/")[1] in wnids]
    files = {archive.name: archive}
    for split, wanted in (("train", True), ("test", False)):
        entries = [(name, wnids.index(name.split("/")[1])) for name in names if name.endswith("_0.jpg") is wanted]
        files[f"imagenet-r_{split}.yaml"] = folder / f"imagenet-r_{split}.yaml"
        files[f"imagenet-r_{split}.yaml"].write_bytes(split_list(entries))
    return over(benchmark, files, image_count=len(names))


def cub200_over(benchmark: type, folder: Path, tree: Tree) -> type:
    """``cub200`` over ``<folder>/CUB_200_2011.tgz``, which is written."""
    archive = tar(folder / "CUB_200_2011.tgz", tree)
    lines = tree.get("CUB_200_2011/images.txt", b"").count(b"\n")
    return over(benchmark, {archive.name: archive}, image_count=lines)


def fashion_mnist_over(benchmark: type, folder: Path, tree: Tree) -> type:
    """``fashion_mnist`` over the four gzip files below ``folder``, which are written."""
    unpack(folder, zipped(tree))
    known = {name: hashlib.sha256(data).hexdigest() for name, data in tree.items()}
    return over(benchmark, {f"{name}.gz": folder / f"{name}.gz" for name in tree}, contents=known, packaged=())


# ------------------------------------------------------------------------------------------------------- 5-Datasets

UNREADABLE_LETTERS = (
    "Train/A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png",
    "Test/F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png",
)


def svhn(labels: Sequence[int], shift: int = 0) -> bytes:
    """A MATLAB file, version 5, compressed: X (32, 32, 3, N), y (N, 1), the digit 0 as 10; image n is n + row + ``shift``."""
    from scipy.io import savemat

    ramp = np.broadcast_to(np.arange(32)[:, None, None, None], (32, 32, 3, 1))
    images = (ramp + np.arange(len(labels)) + shift).astype(np.uint8)
    file = io.BytesIO()
    savemat(file, {"X": images, "y": np.array(labels, np.uint8)[:, None]}, do_compression=True)
    return file.getvalue()


def cifar10(first: int) -> bytes:
    """A batch of ten images of CIFAR-10; image c has red 10 c + ``first``, green the row, blue the column."""
    labels = list(range(10))
    return python2_pickle(
        {
            "batch_label": "a batch",
            "labels": labels,
            "data": cifar_rows("train", [10 * c + first for c in labels]),
            "filenames": ["x.png"] * 10,
        }
    )


def png(value: int) -> bytes:
    """A grey PNG of 28 pixels."""
    file = io.BytesIO()
    Image.new("L", (28, 28), value).save(file, "PNG")
    return file.getvalue()


def five_datasets() -> Tree:
    """Every published file by the name that the benchmark gives it, one image a class and split; five batches of CIFAR-10."""
    digits = [*range(1, 10), 10]
    letters = {
        f"notMNIST/{split}/{letter}/{letter}{split}.png": png(20 * number + extra)
        for extra, split in enumerate(("Train", "Test"))
        for number, letter in enumerate("ABCDEFGHIJ")
    }
    letters |= {f"notMNIST/{name}": b"" for name in UNREADABLE_LETTERS}
    batches = {f"cifar-10-batches-py/data_batch_{number}": cifar10(number) for number in range(1, 6)}
    batches |= {"cifar-10-batches-py/test_batch": cifar10(9), "cifar-10-batches-py/readme.html": b"about"}
    small = fashion_mnist()
    mnist = {name: data if "idx1" in name else data[:-1] + b"\x07" for name, data in small.items()}
    return {
        "train_32x32.mat": svhn(digits),
        "test_32x32.mat": svhn(digits, 100),
        "cifar-10-python.tar.gz": packed_tar(batches),
        "notMNIST.zip": packed_zip(letters),
        **{f"mnist-{name}": data for name, data in zipped(mnist).items()},
        **{f"fashion-{name}": data for name, data in zipped(small).items()},
    }


def packed_tar(tree: Mapping[str, bytes]) -> bytes:
    """A ``.tar.gz`` in memory."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in tree.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def packed_zip(tree: Mapping[str, bytes]) -> bytes:
    """A zip archive in memory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return file.getvalue()


def five_datasets_over(benchmark: type, folder: Path, tree: Tree) -> type:
    """``five_datasets`` over the files below ``folder``, which are written; notMNIST keeps its kind of digest."""
    unpack(folder, tree)
    kind = over(benchmark, {name: folder / name for name in tree})
    blob = "gitblob:" + hashlib.sha1(b"blob %d\0" % len(tree["notMNIST.zip"]) + tree["notMNIST.zip"]).hexdigest()
    kind.remotes = tuple(  # type: ignore[attr-defined]
        replace(one, digest=blob) if one.name == "notMNIST.zip" else one
        for one in kind.remotes  # type: ignore[attr-defined]
    )
    return kind


def emoji_icons(set_name: str) -> dict[str, object]:
    """The ``icons.json`` of a set, with a drawing of its own for each class: a disc in the class's colour, or of ink alone."""
    from smope_bench.benchmarks.datasets.emoji_sets import concepts

    icons: dict[str, object] = {}
    for number, concept in enumerate(concepts("class")):
        fill = "currentColor" if "monotone" in set_name else f"#{(number * 40_503) % (1 << 24):06x}"
        icons[concept.icons[set_name]] = {"body": f'<circle cx="8" cy="8" r="7" fill="{fill}"/>'}
    return {"prefix": set_name, "icons": icons, "width": 16, "height": 16}


def emoji_archives(**changed: dict[str, object]) -> Tree:
    """The twelve archives as npm packs them; ``changed``: other icons of a set, its name with underscores."""
    from smope_bench.benchmarks.datasets.emoji_sets import SETS

    def packed(name: str) -> bytes:
        content = changed.get(name.replace("-", "_"), emoji_icons(name))
        files = {"package/package.json": b"{}", "package/icons.json": json.dumps(content).encode()}
        return packed_tar(files)

    return {one.remote().name: packed(one.name) for one in SETS}


def emoji_over(benchmark: type, folder: Path, tree: Tree) -> type:
    """``emoji_r`` over the archives below ``folder``, which are written."""
    unpack(folder, tree)
    return over(benchmark, {name: folder / name for name in tree})
