"""A server that behaves badly, a benchmark held in memory whose pixels say what they are, and folders of small images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smope_bench.benchmarks.base import (
    Benchmark,
    BenchmarkCard,
    BenchmarkConfig,
    ImageSet,
    ProgressCallback,
    Split,
    silent,
)
from smope_bench.benchmarks.download import transfer


class Toy(Benchmark[BenchmarkConfig]):
    """Image j of class c has pixel values (c, j, 0 in training and 1 in test)."""

    name = "toy"
    card = BenchmarkCard("Toy", "made here", "none", "numbers")

    def __init__(self, config: BenchmarkConfig, counts: dict[Split, list[int]]) -> None:
        super().__init__(config, Path("unused"))
        self.counts = counts

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        pass

    def image_set(self, split: Split) -> ImageSet:
        pixels = [
            (original, image, int(split == "test"))
            for image in range(max(self.counts[split]))
            for original, count in enumerate(self.counts[split])
            if image < count
        ]
        images = np.array(pixels, dtype=np.uint8).reshape(-1, 1, 1, 3)
        return ImageSet(images, images[:, 0, 0, 0].astype(np.int64))

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"class {original}" for original in range(len(self.counts["train"])))


MakeToy = Callable[..., Toy]


@pytest.fixture
def make_toy() -> MakeToy:
    def make(classes: int = 6, train: int = 10, test: int = 4, **config: object) -> Toy:
        settings = BenchmarkConfig.model_validate({"tasks": 3, **config})
        return Toy(settings, {"train": [train] * classes, "test": [test] * classes})

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write ``count`` PNG files a class; every image of every class is different."""

    def make(classes: tuple[str, ...] = ("ant", "bee", "cat"), count: int = 5, under: str = "pictures") -> Path:
        root = tmp_path / under
        for label, name in enumerate(classes):
            (root / name).mkdir(parents=True)
            for image in range(count):
                colour = (40 * label + 10, 20 * image + 5, len(under))
                Image.new("RGB", (12, 10), colour).save(root / name / f"{image}.png")
        return root

    return make


SERVED = bytes(range(256)) * 400


class Server:
    """Serves ``content`` at every path but some. ``cuts``: how often an answer ends early; ``asked``: (path, Range)."""

    def __init__(self) -> None:
        self.content, self.etag, self.cuts = SERVED, '"v1"', 0
        self.knows_ranges, self.honours_if_range, self.sends_length = True, True, True
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def url(self, path: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{path}"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.asked.append((self.path, asked))
                if self.path.startswith("/to"):
                    self.send_response(302)
                    self.send_header("Location", {"/to-file": "file:///etc/hostname"}.get(self.path, server.url()))
                    self.end_headers()
                elif self.path == "/absent":
                    self.send_error(404)
                elif self.path == "/busy":
                    self.send_error(503)
                else:
                    self.serve(asked)

            def serve(self, asked: str | None) -> None:
                body = b"wrong" * 100 if self.path == "/wrong" else server.content
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.knows_ranges else 0
                unchanged = self.headers.get("If-Range") in (None, server.etag) or not server.honours_if_range
                start = start if unchanged else 0
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                if server.etag:
                    self.send_header("ETag", server.etag)
                if server.sends_length:
                    self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                body = body[start:]
                if server.cuts > 0:
                    server.cuts -= 1
                    body = body[: min(len(SERVED) // 2, len(body) - 1)]
                server.sent += len(body)
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)
    made = Server()
    yield made
    made.stop()
