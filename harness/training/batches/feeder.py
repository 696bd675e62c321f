"""The feeder of a run: makes batches ahead of their use in threads, so that an accelerator does not wait for pictures.

Random numbers are drawn in the order of the batches, from the generator of their pass, so that batches made ahead have the
same bits as those made when they are used; no generator that a checkpoint keeps is touched.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smope_bench.benchmarks.image_store.pictures import THREADS_AT_MOST
from smope_bench.benchmarks.stream import View
from smope_bench.benchmarks.transforms.batch import Draws, Transforms
from smope_bench.benchmarks.transforms.staging import Recycler, Staged
from smope_bench.harness.hardware.device import usable_cores

AHEAD_ON_CPU, AHEAD_ELSEWHERE = 0, 3
"""Batches that are made before they are used."""
Part = NDArray[np.int64] | slice
"""Positions in a view that make one batch."""


class Feeder:
    """One pool of threads for all passes of a run. Close it, or use it as a context manager: then no thread is left.

    On the CPU, whose cores the training itself uses, a batch is made when it is used; elsewhere ``ahead`` batches before.
    """

    def __init__(self, device: torch.device, *, threads: int | None = None, ahead: int | None = None) -> None:
        """``threads``: None = one for each core; ``ahead``: None = AHEAD_ON_CPU or AHEAD_ELSEWHERE."""
        self._device = device
        self._threads = threads or min(usable_cores(), THREADS_AT_MOST)
        self._ahead = (AHEAD_ON_CPU if device.type == "cpu" else AHEAD_ELSEWHERE) if ahead is None else ahead
        self._pool: ThreadPoolExecutor | None = None
        self._stream = BatchStream(device)
        self._memory = Recycler(self._ahead + 1)

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End all threads, after the pieces that they are working on; the feeder can be used again."""
        self._memory.close()
        self._memory = Recycler(self._ahead + 1)
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def batches(
        self,
        view: View,
        transforms: Transforms,
        parts: Sequence[Part],
        generator: torch.Generator | None = None,
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Images (b, 3, S, S) and labels (b,) of each part on the device, in order.

        ``generator``: training augmentation, drawn from this CPU generator; None: the test transform. Errors of a thread are
        raised where its batch is used. Close the generator where it is not used up.
        """
        making: deque[Making] = deque()
        upcoming = iter(parts)
        try:
            while True:
                for part in upcoming:
                    making.append(self._begin(view, transforms, part, generator))
                    if len(making) > self._ahead:
                        break
                if not making:
                    return
                batch = making[0].made(self._stream)
                making.popleft()
                yield batch
        finally:
            for each in making:
                each.cancel()

    def _begin(self, view: View, transforms: Transforms, part: Part, generator: torch.Generator | None) -> Making:
        count, memory = len(view.rows[part]), self._memory
        draws: Draws = None if generator is None else transforms.draw(count, generator)

        def stage() -> Staged:
            raw, labels = view.take(part)
            return transforms.stage(raw, self._device, draws, labels, memory)

        if self._pool is None and (self._ahead or self._threads > 1):
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="feeder")
        return Making(stage, self._pool, is_ahead=self._ahead > 0)


class Making:
    """One batch in the making: a first call that reads and lays it out, whose pieces then follow it into the pool."""

    def __init__(self, stage: Callable[[], Staged], pool: ThreadPoolExecutor | None, *, is_ahead: bool) -> None:
        self._stage, self._pool, self._is_ahead = stage, pool, is_ahead
        self._pieces: list[Future[None]] = []
        self._is_cancelled = False
        self._staged: Future[Staged] | None = pool.submit(self._laid_out) if pool and is_ahead else None

    def made(self, stream: BatchStream) -> tuple[Tensor, Tensor]:
        """Images and labels on the device. Raises the first error of a piece, in their order."""
        staged = self._laid_out() if self._staged is None else self._staged.result()
        for piece in self._pieces:
            piece.result()
        with stream.active():
            batch = staged.finish()
        stream.release(*batch)
        return batch

    def cancel(self) -> None:
        """Leave out what has not begun."""
        self._is_cancelled = True
        for future in (self._staged, *self._pieces):
            if future is not None:
                future.cancel()

    def _laid_out(self) -> Staged:
        staged = self._stage()
        if self._pool is None or (not self._is_ahead and len(staged.pieces) == 1):
            for piece in staged.pieces:
                piece()
        elif not self._is_cancelled:
            self._pieces = [self._pool.submit(piece) for piece in staged.pieces]
        return staged


class BatchStream:
    """The CUDA stream on which batches are finished; on other devices it does nothing.

    With a stream of their own, copies from the host do not wait for the training step that is still computing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which the next batch is computed."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def release(self, *tensors: Tensor) -> None:
        """Make ``tensors`` usable on the current stream."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in tensors:
                tensor.record_stream(current)
