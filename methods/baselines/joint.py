"""Joint training of prompt and head on all tasks at once: the ceiling of sequential prompt methods."""

from __future__ import annotations

from smope_bench.methods.baselines.linear_probe import LinearProbe
from smope_bench.methods.baselines.one_prompt import OnePrompt
from smope_bench.methods.common.api import MethodCard

JOINTLY = "it is trained on the images of all tasks at once"


class Joint(OnePrompt):
    """One prompt, but the stream gives it one training task with every class; tests stay apart by task."""

    name = "joint"
    card = MethodCard(
        title="Joint (prompt + head)",
        summary="one shared prefix and head trained on the images of all tasks at once",
        kind="ceiling",
    )
    trains_jointly = True
    not_extended_because = JOINTLY


class JointHead(LinearProbe):
    """The linear probe, but the stream gives it one training task with every class; tests stay apart by task."""

    name = "joint_head"
    card = MethodCard(
        title="Joint (head only)",
        summary="head alone on frozen features, trained on the images of all tasks at once",
        kind="ceiling",
    )
    trains_jointly = True
    not_extended_because = JOINTLY
