"""The tensor of the pretend device, and the rules of its operators."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smope_bench.harness.conformance.pretend_device.fused_attention import OPERATORS
from smope_bench.harness.conformance.pretend_device.report import Report, place

DEVICE = torch.device("cuda:0")
HOST = torch.device("cpu")
aten = torch.ops.aten

WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.bincount.default: "bincount",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "bool",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique_consecutive",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten._linalg_check_errors.default: "error check of a decomposition",
    aten._linalg_eigh.default: "eigh",
    aten._linalg_svd.default: "svd",
}
"""Operators whose result has to be known on the host before the call returns."""
READS = {aten.index.Tensor, aten._unsafe_index.Tensor}
WRITES = {aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
NUMBERS = {
    "fill_",
    "fill",
    "index_fill",
    "index_fill_",
    "masked_fill",
    "masked_fill_",
    "_foreach_add_",
    "_foreach_mul_",
}
"""Operators beside the pointwise ones that take a number from a tensor (0-dim.) of the host."""


class _Flags(threading.local):
    """Flags of the current call, of each thread apart."""

    inside = False
    is_quiet = False


class State:
    """The running pretend device: its report, its random generator, and flags of the current call."""

    def __init__(self) -> None:
        self.report = Report()
        self.generator = torch.Generator()
        self.drawing = threading.Lock()
        self._flags = _Flags()

    @property
    def inside(self) -> bool:
        """Whether a function of tensors of the device runs: what it makes without naming a device is on the device."""
        return self._flags.inside

    @contextlib.contextmanager
    def within(self, inside: bool) -> Iterator[None]:
        """Set ``inside`` for a call."""
        before, self._flags.inside = self._flags.inside, inside
        try:
            yield
        finally:
            self._flags.inside = before

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is counted, because the call stands for another one."""
        return self._flags.is_quiet

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Count nothing."""
        before, self._flags.is_quiet = self._flags.is_quiet, True
        try:
            yield
        finally:
            self._flags.is_quiet = before

    def wait(self, operation: str) -> None:
        """Count a host synchronisation."""
        if not self.is_quiet:
            self.report.wait(operation)


CURRENT: list[State] = []
"""The state of the running device, if there is one."""


class PretendTensor(Tensor):
    """A tensor on the pretend device. ``numbers``: the CPU tensor that holds its values.

    Its dispatch keys are CUDA's; C++ code still sees a CPU device, so every question for the device is answered in Python.
    """

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, requires_grad: bool = False) -> PretendTensor:
        made = Tensor._make_subclass(cls, numbers.detach(), requires_grad, device_for_backend_keys=DEVICE)
        made.numbers = numbers.detach()
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The pretend device."""
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True."""
        return True

    @property
    def is_cpu(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """False."""
        return False

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, dict(kwargs or {}))

    # -- to the host ---------------------------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """As ``Tensor.to``; a copy to the host waits, unless it is asked not to."""
        device, args, kwargs = asked_device(args, kwargs)
        if device is None or device.type == DEVICE.type:
            rest = {key: value for key, value in kwargs.items() if key != "non_blocking"}
            return super().to(*args, **rest) if args or rest else self
        CURRENT[-1].wait("copy to the host")
        rest = {key: value for key, value in kwargs.items() if key not in ("non_blocking", "copy")}
        copied = moved(self)
        return copied.to(*args, **rest) if args or rest else copied

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        """A copy on the host; the host waits."""
        del args, kwargs
        return self.to(HOST)

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        """Itself."""
        del args, kwargs
        return self

    def tolist(self) -> Any:
        """Numbers of Python; the host waits."""
        CURRENT[-1].wait("tolist")
        return self.numbers.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, as on CUDA."""
        del args, kwargs
        raise TypeError(
            f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    __array__ = numpy  # pyright: ignore[reportAssignmentType]

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As ``Tensor.new_tensor``: a copy from the host, for which it waits."""
        return torch.tensor(data, **({"dtype": self.dtype, "device": DEVICE} | kwargs))

    # -- facts and copies ----------------------------------------------------------------------------------------------

    def get_device(self) -> int:
        """Number of the device."""
        return 0

    def record_stream(self, s: Any) -> None:
        """Nothing: there are no streams."""

    def is_pinned(self, device: Any = None) -> bool:
        """False: pinned memory is the host's."""
        del device
        return False

    def pin_memory(self, device: Any = None) -> Tensor:
        """Refused, as on CUDA."""
        del device
        raise RuntimeError(f"cannot pin '{DEVICE}' only dense CPU tensors can be pinned")

    def __deepcopy__(self, memo: dict[int, Any]) -> PretendTensor:
        copied = PretendTensor(self.numbers.clone(), self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True  # pyright: ignore[reportAttributeAccessIssue]
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("tensors of the pretend device are not stored; copy them to the host first")


class _Moved(torch.autograd.Function):
    """A copy on the other side, host or device; gradients go back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        del ctx
        return _other_side(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return _other_side(gradients[0])


def moved(tensor: Tensor) -> Tensor:
    """A copy of a tensor of the host on the device, or of one of the device on the host."""
    if tensor.requires_grad and torch.is_grad_enabled():
        return _Moved.apply(tensor)  # pyright: ignore[reportReturnType]
    return _other_side(tensor)


def _other_side(tensor: Tensor) -> Tensor:
    if isinstance(tensor, PretendTensor):
        return tensor.numbers.clone()
    return PretendTensor(tensor.detach().clone())


def asked_device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.device | None, tuple[Any, ...], dict]:
    """The device that arguments of ``Tensor.to`` ask for, None without one, and the other arguments."""
    rest, found = {key: value for key, value in kwargs.items() if key != "device"}, kwargs.get("device")
    kept: list[Any] = []
    for value in args:
        if isinstance(value, torch.device | str | int) and not isinstance(value, bool):
            found = value
        elif isinstance(value, Tensor):
            found = value.device
            kept.append(value.dtype)
        elif isinstance(value, torch.dtype):
            kept.append(value)
        elif isinstance(value, bool) and found is not None:  # non_blocking, then copy
            rest["copy" if "non_blocking" in rest else "non_blocking"] = value
    device = (
        torch.device(DEVICE.type, found) if isinstance(found, int) else None if found is None else torch.device(found)
    )
    return device, tuple(kept), rest


# -- operators ---------------------------------------------------------------------------------------------------------


def dispatch(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the numbers, by the rules of a CUDA device."""
    state = CURRENT[-1]
    given = list(_tensors((*args, *kwargs.values())))
    ours = any(isinstance(each, PretendTensor) for each in given)
    name = func._schema.name.removeprefix("aten::")
    on_device = ours
    asked = kwargs.get("device")
    if asked is not None:
        on_device = torch.device(asked).type == DEVICE.type or (ours and state.inside)
        kwargs["device"] = HOST
        if not ours and not given and torch.device(asked).type == "cpu":
            on_device = state.inside
    pins = bool(kwargs.pop("pin_memory", None)) if "pin_memory" in kwargs else False
    if name == "copy_":
        on_device = isinstance(args[0], PretendTensor)
        _note_copy(state, args, kwargs)
    elif name == "_to_copy" and given and not ours and on_device:
        state.wait("copy to the device")
    elif ours:
        _refuse_mixed(state, func, name, args, given)
    if on_device and not state.is_quiet:
        _note(state, func, args, kwargs)
    plain = [_plain(each) for each in args], {key: _plain(value) for key, value in kwargs.items()}
    # The attention kernel draws for its dropout, which nothing here uses.
    if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in name:
        result = _drawn(state, func, *plain, on_device=on_device)
    else:
        kernel, run = OPERATORS.get(func, (None, func)) if on_device else (None, func)
        state.report.kernels.update([kernel] if kernel else [])
        result = run(*plain[0], **plain[1])
    if pins:
        pin(result)
    return _returned(func, args, kwargs, result) if on_device else result


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _plain(value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value.numbers
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _note(state: State, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if func in WAITING:
        state.wait(WAITING[func])
    elif func in READS or func in WRITES:
        indices = [index for index in args[1] if index is not None]
        if any(not isinstance(index, PretendTensor) for index in indices):
            state.wait("index from the host")
        masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        # A number is filled in under a mask without counting its entries.
        if masks and not (func in WRITES and args[2].numel() == 1 and not isinstance(args[2], PretendTensor)):
            state.wait("index by a mask")
    elif func is aten._to_copy.default and kwargs.get("dtype") not in (None, args[0].dtype):
        state.report.casts += 1


def _note_copy(state: State, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    target, source = args[0], args[1]
    if isinstance(target, PretendTensor) == isinstance(source, PretendTensor):
        return
    waits_not = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
    host = source if isinstance(target, PretendTensor) else target
    if not (waits_not and is_pinned(host)):
        state.wait("copy to the device" if isinstance(target, PretendTensor) else "copy to the host")


def _refuse_mixed(state: State, func: Any, name: str, args: Sequence[Any], given: Sequence[Tensor]) -> None:
    strangers = [each for each in given if not isinstance(each, PretendTensor)]
    if not strangers or name in ("set_", "_to_copy", "detach", "alias", "lift_fresh"):
        return
    if (func in READS or func in WRITES) and isinstance(args[0], PretendTensor):
        strangers = [each for each in strangers if not any(each is index for index in args[1])]
        takes_numbers = func in WRITES
    else:
        takes_numbers = torch.Tag.pointwise in func.tags or name in NUMBERS or name.startswith("_foreach")
    bad = [each for each in strangers if each.dim() or not takes_numbers]
    if bad:
        message = (
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu!"
            f" ({func} with a tensor {tuple(bad[0].shape)} of the host, at {place()})"
        )
        state.report.mixed.append(message)
        raise RuntimeError(message)


def _drawn(state: State, func: Any, args: Sequence[Any], kwargs: dict[str, Any], *, on_device: bool) -> Any:
    """A random operator, from the generator of its device."""
    own = kwargs.get("generator") or next((each for each in args if isinstance(each, torch.Generator)), None)
    state.report.draws[f"{DEVICE if on_device else HOST}, {'default' if own is None else 'own generator'}"] += 1
    if on_device and own is not None:
        message = f"Expected a 'cuda' device type for generator but found 'cpu' ({func} at {place()})"
        state.report.mixed.append(message)
        raise RuntimeError(message)
    with state.drawing:  # another thread may draw from the host's generator
        if not on_device:
            return func(*args, **kwargs)
        host = torch.get_rng_state()
        torch.set_rng_state(state.generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            state.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(host)


def _returned(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    """Results as tensors of the device; an argument that was written to is returned itself."""
    schema = func._schema
    if not schema.returns:
        return result
    named = dict(zip((each.name for each in schema.arguments), args, strict=False)) | dict(kwargs)
    written = [named.get(each.name) for each in schema.arguments if each.alias_info and each.alias_info.is_write]

    def of(returned: Any, value: Any) -> Any:
        if returned.alias_info is not None and returned.alias_info.is_write:
            return written.pop(0)
        if isinstance(value, list | tuple):
            return type(value)(of(returned, each) for each in value)
        return PretendTensor(value) if isinstance(value, Tensor) and not isinstance(value, PretendTensor) else value

    if len(schema.returns) == 1:
        return of(schema.returns[0], result)
    return tuple(of(returned, value) for returned, value in zip(schema.returns, result, strict=True))


# -- pinned memory of the host -----------------------------------------------------------------------------------------


def pin(tensor: Tensor) -> Tensor:
    """Take the memory of a tensor of the host as pinned for as long as it lives."""
    tensor.untyped_storage().__dict__["is_pretend_pinned"] = True
    return tensor


def is_pinned(tensor: Tensor) -> bool:
    """Whether the tensor lies in memory that was pinned."""
    return bool(tensor.untyped_storage().__dict__.get("is_pretend_pinned"))
