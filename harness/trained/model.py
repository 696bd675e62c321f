"""A trained model made from what its run kept: method, frozen backbone, class names and the test transform."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from smope_bench.benchmarks.base import Benchmark
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.pictures import central_square, open_picture
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.harness import provenance
from smope_bench.harness.checkpointing.manager import UnfitError
from smope_bench.harness.errors import UserError, as_user_errors
from smope_bench.harness.hardware.device import ACCELERATORS, products_in, resolve_device
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.text import plain
from smope_bench.harness.trained.find import KeptModel, find_model
from smope_bench.harness.training.kept_model import read_tasks, restored
from smope_bench.methods.common.api import Batch, Method, Setup
from smope_bench.methods.common.backbone.backbones import Backbone
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.schedules import Schedule

if TYPE_CHECKING:
    import pandas as pd

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"
Pictures: TypeAlias = "Picture | Sequence[Picture]"
"""A file, a folder, a Pillow image, an array uint8 (H, W, 3) or (N, H, W, 3), or a sequence of these."""
BATCH = 256
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""Endings of the files of a folder that are taken for pictures, in lower case."""


@dataclass(frozen=True)
class Predictions:
    """Classes of some pictures.

    ``names``: a name a picture: its path, or its position. ``labels``: int64 (n,), positions in ``class_names``.
    ``probabilities``: float32 (n, C), the softmax of the method's logits; of methods without a trained classifier, such as
    nearest class mean, these are scores that add up to 1, not calibrated probabilities.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def classes(self) -> list[str]:
        """Name of the most probable class of each picture."""
        return [self.class_names[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def frame(self) -> pd.DataFrame:
        """A pandas data frame with the columns image, class and probability, and a column for each class."""
        import pandas as pd

        chosen = self.probabilities[np.arange(len(self)), self.labels]
        table = pd.DataFrame({"image": list(self.names), "class": self.classes, "probability": chosen})
        every = pd.DataFrame(self.probabilities, columns=pd.Index(self.class_names))
        return pd.concat([table, every], axis=1)


class TrainedModel:
    """A trained method on its frozen backbone. It predicts; it cannot be trained further."""

    def __init__(self, kept: KeptModel, spec: RunSpec, method: Method, benchmark: Benchmark[Any]) -> None:
        self.run_id = kept.run_id
        self.spec = spec
        self.method = method
        self._code = kept.record["provenance"].get("code_fingerprint")
        self._class_names = tuple(kept.record["class_names"])
        self._benchmark = benchmark
        self._transforms = Transforms.from_config(benchmark.config)
        self._device = next(method.backbone.parameters()).device

    @property
    def is_of_this_code(self) -> bool:
        """Whether the code that trained it is this version's; otherwise predictions may differ from those of the run."""
        return self._code == provenance.code_fingerprint()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that the model has learnt, in order of arrival: columns of the probabilities."""
        return self._class_names[: self.method.seen_classes]

    def preprocess(self, images: Pictures) -> Tensor:
        """What the network sees, float32 (n, 3, S, S): decoded, resized and normalised as the benchmark's test images are."""
        found = list(self._opened(images))
        if not found:
            raise UserError("there is no picture to predict")
        return torch.cat([self._transforms.test(pixels[None]) for _, pixels in found])

    def predict(self, images: Pictures) -> Predictions:
        """Classes and probabilities of some pictures. Raises UserError for what is no picture."""
        names, logits = list[str](), list[Tensor]()
        for part in _batches(self._opened(images)):
            names.extend(name for name, _ in part)
            logits.append(self.logits(torch.cat([self._transforms.test(pixels[None]) for _, pixels in part])))
        if not names:
            raise UserError("there is no picture to predict")
        joined = torch.cat(logits).float()
        labels, probabilities = joined.argmax(dim=1), joined.softmax(dim=1)
        return Predictions(tuple(names), labels.cpu().numpy(), probabilities.cpu().numpy(), self.class_names)

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Logits (n, C) of what ``preprocess`` returns."""
        inputs = inputs.to(self._device)
        query = (lambda: self.method.backbone.features(inputs)) if self.method.needs_query else None
        with products_in(self.spec.precision, self._device.type):
            return self.method.predict(Batch(inputs, None, query))

    def _opened(self, images: Pictures) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Each picture with its name, as pixels uint8 (H, W, 3); positions name those that are no files."""
        for position, each in enumerate(_each(images)):
            if isinstance(each, Path):
                yield str(each), self._kept(_decoded(each, upright=self._benchmark.upright))
            elif isinstance(each, Image.Image):
                yield str(position), self._kept(each.convert("RGB"))
            else:
                yield str(position), each  # arrays are taken as the benchmark stores its own

    def _kept(self, image: Image.Image) -> NDArray[np.uint8]:
        side = self._benchmark.kept_side
        return np.array(image if side is None else central_square(image, side))


def load_model(
    run: str | os.PathLike[str],
    *,
    results: str | os.PathLike[str] = "results",
    data: str | os.PathLike[str] = "data",
    plugins: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    device: str = "auto",
) -> TrainedModel:
    """The trained model of a run by its id, the beginning of one, or a folder that ``export`` wrote.

    ``data``: the folder with prepared backbones; ``plugins``: the files that the run was made with. Raises UserError where there
    is no such run or model, where it is damaged, or where method, benchmark or backbone are not those of the run.
    """
    if not isinstance(run, str | os.PathLike):
        raise UserError(f"a run is named by its id, a text, not by {plain(repr(run), 80)}")
    if device not in (known := ("auto", "cpu", *ACCELERATORS)):
        raise UserError(f"device={device!r} is none of {', '.join(known)}")
    files = [Path(file).expanduser() for file in ([plugins] if isinstance(plugins, str | os.PathLike) else plugins)]
    with as_user_errors(files, Path(data), Path(results)):
        kept = find_model(os.fspath(run), Path(results))
        return model_of(kept, open_registries(files), Path(data), torch.device(resolve_device(device)))


def model_of(kept: KeptModel, registries: Registries, data: Path, device: torch.device) -> TrainedModel:
    """``load_model`` of a model that has been found, with these registries."""
    try:
        spec = spec_of(kept, registries)
        benchmark_class: type[Benchmark[Any]] = registries.benchmarks.load(spec.benchmark.name)
        benchmark = benchmark_class(benchmark_class.Config(**spec.benchmark.config), data)
        method = _method_of(kept, spec, registries, data, device)
    except ValidationError as error:
        raise unknown_setting(kept, error) from error
    except (BenchmarkError, MethodError) as error:
        raise UserError(str(error)) from error
    return TrainedModel(kept, spec, method, benchmark)


def unknown_setting(kept: KeptModel, error: ValidationError) -> UserError:
    """The error of a run whose settings this version does not take."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or error.title
    return UserError(
        f"run {kept.run_id} has the setting {plain(field)}, which this version does not take ({plain(first['msg'])});"
        f" load it with version {plain(kept.record['provenance'].get('project'))}"
    )


def spec_of(kept: KeptModel, registries: Registries) -> RunSpec:
    """The specification of a model's run. Raises UserError unless its plugins are there and unchanged, and ValidationError."""
    spec = RunSpec(**kept.record["spec"])
    _require_sources(kept, spec, registries)
    return spec


def _require_sources(kept: KeptModel, spec: RunSpec, registries: Registries) -> None:
    """Raise UserError unless the run's plugins are there and unchanged."""
    now = registries.sources_of(spec.method.name, spec.benchmark.name, spec.backbone.name)
    names = {"method": spec.method.name, "benchmark": spec.benchmark.name, "backbone": spec.backbone.name}
    for kind, name in names.items():
        if now.get(kind) != kept.sources.get(kind):
            raise UserError(
                f"{kind} {name!r} is not the one that run {kept.run_id} was made with: its source has changed; restore the"
                f" plugin's file of that time, or {kept.remedy}"
            )


def backbone_of(kept: KeptModel, spec: RunSpec, registries: Registries, data: Path) -> Backbone:
    """The frozen backbone of a model's run, not loaded. Raises UserError where it has other weights now."""
    backbone = registries.backbone(spec.backbone, data)
    if backbone.sha256 != spec.backbone.sha256:
        raise UserError(
            f"backbone {spec.backbone.name!r} has the weights {backbone.sha256[:16]}, but run {kept.run_id} was trained on"
            f" {spec.backbone.sha256[:16]}; restore those weights"
        )
    return backbone


def _method_of(kept: KeptModel, spec: RunSpec, registries: Registries, data: Path, device: torch.device) -> Method:
    backbone = backbone_of(kept, spec, registries, data)
    frozen = backbone.load()
    if spec.precision == "bf16":
        frozen.keep_products_in(torch.bfloat16, backbone.load)
    frozen = frozen.to(device)
    method_class: type[Method] = registries.methods.load(spec.method.name)
    config = method_class.Config(**spec.method.config)
    protocol = "domain" if kept.record.get("domains") else "class"
    try:
        tasks = read_tasks(kept.record["model"]["tasks"])
        setup = Setup(len(kept.record["class_names"]), len(tasks), Schedule(**spec.schedule), protocol)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what is drawn is replaced by what was kept
            return restored(lambda: method_class(config, frozen, setup).to(device), load(kept.data), tasks)
    except (UnfitError, LookupError, SafetensorError) as error:
        raise UserError(
            f"the trained model of run {kept.run_id} does not fit method {spec.method.name!r} of this version ({plain(error)});"
            f" load it with version {plain(kept.record['provenance'].get('project'))}, or {kept.remedy}"
        ) from error


def _each(images: Pictures) -> Iterator[Path | Image.Image | NDArray[np.uint8]]:
    """Single pictures: files of folders by name, images of arrays one by one."""
    if isinstance(images, str | os.PathLike):
        path = Path(images).expanduser()
        yield from _files_below(path) if path.is_dir() else [path]
    elif isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise UserError(
                f"an array of pictures must be uint8 of shape (H, W, 3) or (N, H, W, 3), not {images.dtype} {images.shape}"
            )
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, Image.Image):
        yield images
    elif isinstance(images, Sequence):
        for one in images:
            yield from _each(one)
    else:
        raise UserError(f"a picture must be a path, a Pillow image or a numpy array uint8, not {type(images).__name__}")


def _files_below(folder: Path) -> list[Path]:
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not found:
        raise UserError(f"folder {str(folder)!r} has no pictures: no file whose name ends in {', '.join(SUFFIXES)}")
    return found


def _decoded(file: Path, *, upright: bool) -> Image.Image:
    try:
        return open_picture(file.read_bytes(), upright=upright)
    except OSError as error:
        raise UserError(f"picture {str(file)!r} cannot be read ({error.strerror})") from error
    except BenchmarkError as error:
        raise UserError(f"picture {str(file)!r} cannot be used: {error}") from error


def _batches(
    pictures: Iterator[tuple[str, NDArray[np.uint8]]],
) -> Iterator[list[tuple[str, NDArray[np.uint8]]]]:
    part: list[tuple[str, NDArray[np.uint8]]] = []
    for picture in pictures:
        part.append(picture)
        if len(part) == BATCH:
            yield part
            part = []
    if part:
        yield part
