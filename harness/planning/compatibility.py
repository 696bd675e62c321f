"""Whether a method can run on a benchmark and backbone; checked while planning, before data or weights are loaded."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from smope_bench.harness.errors import UserError
from smope_bench.harness.run_spec import RunSpec, canonical_json
from smope_bench.harness.text import sentence, where
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:
    from smope_bench.benchmarks.base import Protocol


BUILT_IN = "smope_bench.methods."


class CompatibilityChecker:
    """Constructs each combination of method, backbone and task stream once, without storage, so that its own checks run."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._skeletons: dict[str, Any] = {}

    def require(
        self,
        method: type[Any],
        spec: RunSpec,
        backbone: Any,
        num_classes: int,
        num_tasks: int,
        protocol: Protocol = "class",
    ) -> Any | None:
        """Raise UserError, with the method's own message, for a combination that it refuses.

        The method is constructed on PyTorch's meta device: shapes and checks are real, values are not. Returns it, or None where
        it was constructed before or cannot be constructed so.
        """
        key = canonical_json(
            [spec.method.model_dump(), spec.backbone.model_dump(), spec.schedule, num_classes, num_tasks, protocol]
        )
        if key in self._known:
            return None
        self._known.add(key)
        _require_protocol(method, spec, protocol)
        import torch

        from smope_bench.harness.planning.outline import Undrawn, made_with_outline
        from smope_bench.methods.common.api import Setup
        from smope_bench.methods.common.schedules import Schedule

        tasks = 1 if method.trains_jointly else num_tasks
        setup = Setup(num_classes, tasks, Schedule(**spec.schedule), protocol)
        config = method.Config(**spec.method.config)
        try:
            # A plugin may read values in its constructor, which the meta device does not have.
            with torch.device("meta"), Undrawn(), contextlib.suppress(NotImplementedError, RuntimeError):
                return made_with_outline(
                    lambda vit: method(config, vit, setup), backbone, lambda: self._skeleton(spec, backbone)
                )
        except MethodError as error:
            raise UserError(
                f"{spec.method.name} cannot run on {spec.benchmark.name} ({num_classes} classes in {num_tasks} tasks) with"
                f" backbone {spec.backbone.name}: {error}"
            ) from error
        except Exception as error:
            if isinstance(error, TypeError) and "meta device" in str(error):
                return None  # values asked for as a numpy array
            if method.__module__.startswith(BUILT_IN):  # a bug of the project: show its traceback
                raise
            raise UserError(
                f"{spec.method.name} cannot be constructed: {sentence(error)}{where(error, method)}"
            ) from error
        return None

    def _skeleton(self, spec: RunSpec, backbone: Any) -> Any:
        """One skeleton for each backbone with its settings, since making it is slow."""
        key = spec.backbone.model_dump_json()
        if key not in self._skeletons:
            self._skeletons[key] = backbone.skeleton()
        return self._skeletons[key]


def _require_protocol(method: type[Any], spec: RunSpec, protocol: Protocol) -> None:
    if protocol not in method.protocols:
        reason = method.unfit_because or f"it does not name {protocol!r} in Method.protocols"
        raise UserError(
            f"{spec.method.name} cannot run on {spec.benchmark.name}, whose tasks are new {PROTOCOL_WORDS[protocol]}: {reason};"
            " leave it out with --methods"
        )


PROTOCOL_WORDS: dict[Protocol, str] = {"class": "classes", "domain": "domains of the same classes"}
