"""A ViT with the parts of ViT-B/16 and no others, for weights that a file holds.

Names, shapes and results are those of timm's VisionTransformer. Importing timm takes longer than importing torch, so that
backbones of this form are made without it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MLP_RATIO = 4
"""Width of the hidden layers relative to the tokens."""
EPSILON = 1e-6
"""Of the layer norms."""


class PlainViT(nn.Module):
    """Patches, a class token, learned position embeddings, blocks, and a norm; the feature is the class token.

    What other models of timm have in addition is an identity here, or None.
    """

    global_pool, num_prefix_tokens, attn_pool = "token", 1, None

    def __init__(self, *, img_size: int, patch_size: int, embed_dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.num_features = embed_dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (img_size // patch_size) ** 2, embed_dim))
        self.patch_embed = PatchEmbed(img_size, patch_size, embed_dim)
        self.patch_drop, self.norm_pre = nn.Identity(), nn.Identity()
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, eps=EPSILON)
        self.fc_norm, self.head = nn.Identity(), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> features (B, embed_dim)."""
        return self.forward_head(self.norm(self.blocks(self._pos_embed(self.patch_embed(images)))))

    def forward_head(self, tokens: Tensor, pre_logits: bool = True) -> Tensor:
        """Tokens (B, N, embed_dim) after the norm -> features (B, embed_dim); there is no classifier."""
        del pre_logits
        return tokens[:, 0]

    def _pos_embed(self, patches: Tensor) -> Tensor:
        """The class token before the patches (B, N, embed_dim), and the positions added."""
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed


class PatchEmbed(nn.Module):
    """Square patches as tokens."""

    def __init__(self, img_size: int, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        side = img_size // patch_size
        self.img_size, self.patch_size, self.grid_size = (img_size,) * 2, (patch_size,) * 2, (side,) * 2
        self.num_patches = side**2
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> tokens (B, num_patches, embed_dim)."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and MLP, each after a norm and beside a residual connection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.attn = Attention(dim, num_heads)
        self.ls1, self.drop_path1 = nn.Identity(), nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = Mlp(dim)
        self.ls2, self.drop_path2 = nn.Identity(), nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) through the block."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Attention(nn.Module):
    """Softmax attention with one projection to queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm, self.k_norm, self.norm = nn.Identity(), nn.Identity(), nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) -> what attention adds to them."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(heads.transpose(1, 2).reshape(batch, count, dim))


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.act = nn.GELU()
        self.drop1, self.norm = nn.Identity(), nn.Identity()
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)
        self.drop2 = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, dim) -> (B, N, dim)."""
        return self.fc2(self.act(self.fc1(tokens)))
