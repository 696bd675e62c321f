"""NoRGa: HiDe-Prompt with a learnable non-linear gate on the prefix logits (NeurIPS 2024). Source: NoRGa card."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from smope_bench.methods.common.api import Geometry, MethodCard, PublishedCost, Setup
from smope_bench.methods.common.prompts.gated_prefix import Activation, GatedPrefix
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT
from smope_bench.methods.hide_prompt import TABLE_BLOCKS, HidePrompt, HidePromptConfig


class NoRGaConfig(HidePromptConfig):
    """HiDe-Prompt's settings and the gate's (card, sections 1 and 6)."""

    activation: Activation = Field(default="sigmoid", description="of the gate; differs between the official scripts")
    gate_first_task_only: bool = Field(default=True, description="the gate stops learning after the first task (code)")


class NoRGa(HidePrompt):
    """HiDe-Prompt's tensors and, for each prompted block, the two scalars of its gate."""

    name = "norga"
    card = MethodCard(
        title="NoRGa",
        summary="HiDe-Prompt with non-linear residual gates on the prefix logits",
        paper="Mixture of Experts Meets Prompt-Based Continual Learning, NeurIPS 2024",
        paper_url="https://arxiv.org/abs/2405.14124",
        code_url="https://github.com/Minhchuyentoancbn/MoE_PromptCL",
    )
    Config = NoRGaConfig

    def __init__(self, config: NoRGaConfig, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__(config, backbone, setup)
        self.activation: Activation = config.activation
        self.gates_stop = config.gate_first_task_only
        self.gates = nn.Parameter(torch.ones(config.prompt_blocks, 2))

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """HiDe-Prompt's row and the gates; their operations are not counted (card, section 7)."""
        hide = super().published_cost(geometry)
        return replace(hide, parameters=hide.parameters + 2 * TABLE_BLOCKS)

    def _prompt_parameters(self) -> list[nn.Parameter]:
        learns = self.task_index == 0 or not self.gates_stop
        return [*super()._prompt_parameters(), self.gates] if learns else super()._prompt_parameters()

    def _rule(self, layer: int, keys: Tensor, values: Tensor) -> AttentionRule:
        tau, alpha = self.gates[layer]
        return GatedPrefix(keys, values, tau, alpha, self.activation)

    def settled(self) -> dict[str, Tensor]:
        """HiDe-Prompt's, and the gates after the task in which they are frozen."""
        return super().settled() | ({"gates": self.gates} if self.gates_stop else {})
