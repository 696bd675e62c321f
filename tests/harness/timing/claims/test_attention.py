"""Forms of attention rules that are compared in speed say the same, and are counted and timed for what they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smope_bench.harness.timing.claims import attention as bench
from smope_bench.harness.timing.measure import saved_bytes
from smope_bench.methods.common.vit.attention import attend

CPU = torch.device("cpu")
KINDS = {
    "plain": bench.plain_forms,
    "shared": lambda: bench.shared_forms(2, CPU, torch.float32),
    "gated": lambda: bench.gated_forms(CPU, torch.float32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_forms_of_a_logit_give_the_same_output_and_gradient(kind: str) -> None:
    q, k, v = (each.detach().requires_grad_() for each in bench.make_heads(2, CPU, torch.float32))
    found = {}
    for name, form in KINDS[kind]().items():
        output = form(q, k, v)
        found[name] = (output.detach(), *torch.autograd.grad(output.square().sum(), (q, k, v)))
    used = found.pop(next(iter(found)))
    for other in found.values():
        for mine, theirs in zip(used, other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_form_in_use_comes_first_and_is_its_own_measure(precision: str) -> None:
    rows = bench.bench_attention(batch=1, repeats=1, precision=precision, device="cpu")
    used = {row.name.split(": ")[0]: row for row in reversed(rows)}
    assert [row.name for row in used.values()][::-1] == [f"{logit}: as used" for logit in KINDS]
    assert all(row["to_used"].median == 1.0 for row in used.values())
    assert all(row["seconds"].median > 0 for row in rows)


def test_what_a_graph_keeps_is_counted_once_a_storage() -> None:
    heads = bench.make_heads(1, CPU, torch.float32)
    forms = bench.shared_forms(1, CPU, torch.float32)
    plain = saved_bytes(lambda: forms["one pair, plain products"](*heads))
    assert plain > 4 * bench.HEADS * bench.TOKENS * (bench.TOKENS + 1), "plain products keep the weights"
    assert saved_bytes(lambda: heads[0] * heads[0]) == 4 * 3 * heads[0].numel()


def test_bf16_is_timed_under_autocast_as_runs_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, torch.dtype]] = []

    def noted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), q.dtype))
        return attend(q, k, v)

    monkeypatch.setattr(bench, "attend", noted)
    bench.bench_attention(batch=1, repeats=1, precision="bf16", device="cpu")
    assert set(seen) == {(True, torch.bfloat16)} and not torch.is_autocast_enabled("cpu")
