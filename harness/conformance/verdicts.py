"""What the conformance kit says: a verdict a requirement, and for each that is not met what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """One requirement, whether it is met, and what was seen; ``remedy`` says what to do where it is not."""

    name: str
    passed: bool
    detail: str
    remedy: str = ""


REMEDIES = {
    "honest": "leave the leaking setting out of the defaults; a leaking configuration may be run, and is marked as one",
    "runs": "every hook is shown with its shapes in methods/common/api.py; logits of predict are (images, self.seen_classes)",
    "gradients only where declared": "return what is trained from parameter_groups(), and change nothing else in a step; what is"
    " counted or averaged belongs in a buffer",
    "backbone untouched": "the backbone is shared and frozen: train prompts or layers of the method's own",
    "earlier tasks settled": "leave out of settled() what later tasks train, or keep them from it, by a mask or a copy",
    "predict leaves no trace": "predict answers and changes nothing: gather statistics in training_step or end_task",
    "independent of the batch": "predict must take any number of images, one included",
    "independent of": "row i of predict may depend on image i alone: no mean, vote, sort or normalisation over dimension 0, no"
    " running statistics in train mode, and permute or transpose, not reshape, to exchange dimensions",
    "blind to the task id": "choose by the image alone which task's parameters answer; look neither at the caller nor at what was"
    " asked before",
    "keeps no data": "keep statistics, not images, batches or views: earlier data is gone when a task is over",
    "blind to later tasks and test images": "read the current task's data only through the hooks' arguments, and learn nothing in"
    " predict",
    "repeats bit for bit": "draw from torch's default generator, which is seeded, not from the clock or a generator of one's own;"
    " iterate over no set",
    "save, load, continue": "keep what is learnt in parameters or register_buffer: plain attributes are not in a checkpoint, and"
    " begin_task and begin_phase are called again where a task goes on, so that a counter they set begins anew",
    "short of memory": "give a rule with tensors of single images a method part(rows); a rule draws no random numbers, but carries"
    " what was drawn before, and notes to a Trace alone: it may be called again, for all images or for some",
    "bf16": "create tensors in the type of what they are combined with, and compute in float32 within torch.autocast(...,"
    " enabled=False) where needed",
}
_ANY = "independent of"


def advised(verdict: CheckResult) -> CheckResult:
    """The verdict with its remedy where the requirement is not met."""
    if verdict.passed or verdict.remedy:
        return verdict
    fallback = REMEDIES[_ANY] if verdict.name.startswith(_ANY) else ""
    return CheckResult(verdict.name, False, verdict.detail, REMEDIES.get(verdict.name, fallback))
