"""The pretend device keeps CUDA's rules: devices, autocast, generators, pinned memory, attention kernels, host synchronisations."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smope_bench.harness.conformance.pretend_device.autocast import FULL, LOWER, operators
from smope_bench.harness.conformance.pretend_device.device import pretend_device
from smope_bench.harness.conformance.pretend_device.report import Report

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the pretend device stands for a GPU where there is none"
)


@pytest.fixture
def report() -> Iterator[Report]:
    with pretend_device() as found:
        yield found


def test_torch_is_as_before_once_it_is_gone() -> None:
    before = torch.cuda.is_available, torch.autograd._engine_run_backward, threading.Thread.run
    with pretend_device():
        assert torch.cuda.is_available() and torch.zeros(2, device="cuda").device == torch.device("cuda:0")
    assert before == (torch.cuda.is_available, torch.autograd._engine_run_backward, threading.Thread.run)
    assert not torch.cuda.is_available()
    a = torch.ones(2, 2, requires_grad=True)
    (a @ a).sum().backward()
    assert a.grad is not None


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda here, there: here + there,
    "product": lambda here, there: here @ there,
    "cat": lambda here, there: torch.cat([here, there]),
    "out": lambda here, there: torch.add(here, here, out=there),
    "indexed by the device": lambda here, there: there[here.argmax(dim=0)],
    "stack of numbers": lambda here, there: torch.stack([here[0, 0], there[0, 0]]),
    "loss": lambda here, there: F.cross_entropy(here, there.argmax(dim=1)),
}


@pytest.mark.parametrize("kind", MIXED)
def test_mixed_devices_are_refused(kind: str, report: Report) -> None:
    here, there = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
    with pytest.raises(RuntimeError, match=r"at least two devices, cuda:0 and cpu.*test_pretend_device\.py:\d+"):
        MIXED[kind](here, there)
    assert len(report.mixed) == 1


def test_a_number_of_the_host_is_taken(report: Report) -> None:
    here = torch.ones(3, device="cuda")
    assert (here * torch.tensor(2.0)).tolist() == [2.0, 2.0, 2.0] and report.mixed == []


def test_numpy_and_generators_of_the_host_are_refused(report: Report) -> None:
    here = torch.ones(3, device="cuda")
    for refused in (here.numpy, lambda: np.asarray(here), here.pin_memory):
        with pytest.raises((TypeError, RuntimeError), match="cuda:0"):
            refused()
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    assert len(report.mixed) == 1


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda t: t[0].item(),
    "tolist": lambda t: t.tolist(),
    "copy to the host": lambda t: t.cpu(),
    "copy to the device": lambda t: torch.ones(3).to(t.device),
    "nonzero": lambda t: t.nonzero(),
    "index by a mask": lambda t: t[t > 0],
    "index from the host": lambda t: t[torch.tensor([0, 1])],
    "bincount": lambda t: torch.bincount(t.long()),
    "unique": lambda t: t.unique(),
}


@pytest.mark.parametrize("operation", WAITS)
def test_a_host_synchronisation_is_counted_with_its_line(operation: str, report: Report) -> None:
    tensor = torch.ones(3, device="cuda")
    WAITS[operation](tensor)
    ((wait, count),) = report.waits.items()
    assert (wait.operation, count) == (operation, 1)
    assert wait.places[0].line == WAITS[operation].__code__.co_firstlineno and wait.places[0].file == __file__


def test_what_does_not_wait_is_not_counted(report: Report) -> None:
    pinned, host = torch.ones(3).pin_memory(), torch.empty(3, pin_memory=True)
    here = pinned.to("cuda", non_blocking=True)
    host.copy_(here, non_blocking=True)
    here[here > 2] = 0.0  # a number under a mask is filled in without counting its entries
    F.one_hot(here.long(), 4)
    assert here[1].shape == () and len(here) == 3 and report.waits.total() == 0
    torch.ones(3).to("cuda", non_blocking=True)  # from memory that is not pinned it waits all the same
    assert report.waits.total() == 1


def test_autocast_follows_cudas_lists(report: Report) -> None:
    assert "linear" in operators(LOWER) and "layer_norm" in operators(FULL)
    layer, norm = nn.Linear(8, 8).to("cuda"), nn.LayerNorm(8).to("cuda")
    images = torch.randn(2, 8, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
        product = layer(images)
        assert (product.dtype, norm(product).dtype, product.softmax(-1).dtype) == (
            torch.bfloat16,
            torch.float32,
            torch.float32,
        )
        assert report.casts == 5  # image, weight and bias, and what the norm and the softmax read
        with torch.autocast("cuda", enabled=False):
            assert layer(images).dtype == torch.float32
    expected = F.linear(images.cpu().bfloat16(), layer.weight.cpu().bfloat16(), layer.bias.cpu().bfloat16())
    assert torch.equal(product.cpu(), expected)


@pytest.mark.parametrize(
    ("width", "dtype", "is_masked", "kernel"),
    [
        (64, torch.float32, False, "efficient"),
        (65, torch.float32, False, "math"),
        (84, torch.float32, False, "efficient"),
        (65, torch.bfloat16, False, "flash"),
        (64, torch.bfloat16, True, "efficient"),
        (65, torch.bfloat16, True, "math"),
    ],
)
def test_attention_takes_the_kernel_that_cuda_would(
    width: int, dtype: torch.dtype, is_masked: bool, kernel: str, report: Report
) -> None:
    q = torch.randn(1, 2, 5, width, dtype=dtype, device="cuda")
    mask = torch.ones(5, 5, dtype=torch.bool, device="cuda") if is_masked else None
    F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert dict(report.kernels) == {kernel: 1}


def test_gradients_are_those_of_the_cpu_recomputed_or_not(report: Report) -> None:
    def loss(weight: Tensor, rows: Tensor) -> Tensor:
        return (rows @ weight).tanh().square().sum()

    weight, rows = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4)
    plain = weight.clone().requires_grad_()
    loss(plain, rows).backward()
    for recomputes in (False, True):
        here = weight.to("cuda").requires_grad_()
        there = rows.to("cuda")
        found = checkpoint(loss, here, there, use_reentrant=False) if recomputes else loss(here, there)
        assert isinstance(found, Tensor)
        found.backward()
        assert here.grad is not None and plain.grad is not None and torch.equal(here.grad.cpu(), plain.grad)
    assert report.mixed == []


def test_the_device_has_a_generator_of_its_own(report: Report) -> None:
    torch.manual_seed(3)
    state = torch.cuda.get_rng_state()
    first, host = torch.randn(4, device="cuda"), torch.get_rng_state()
    torch.randn(4)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.randn(4, device="cuda"), first)
    torch.set_rng_state(host)
    assert report.draws == {"cuda:0, default": 2, "cpu, default": 1}


def test_threads_and_copies_of_modules(report: Report) -> None:
    made: list[Tensor] = []
    thread = threading.Thread(target=lambda: made.append(torch.zeros(2, device="cuda") + torch.ones(2).to("cuda")))
    thread.start()
    thread.join()
    assert made[0].is_cuda and report.mixed == []
    layer = nn.Linear(2, 2).to("cuda")
    copied = copy.deepcopy(layer)
    assert isinstance(copied.weight, nn.Parameter) and copied.weight.is_cuda
    assert torch.equal(copied.weight.cpu(), layer.weight.cpu())
