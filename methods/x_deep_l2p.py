"""Deep L2P++: the pool of L2P++ in the first five blocks, each with prompts and keys of its own. Source: L2P card."""

from __future__ import annotations

from pydantic import Field

from smope_bench.methods.common.api import Geometry, MethodCard, PublishedCost
from smope_bench.methods.l2p import L2P, L2PConfig

TABLE_BLOCKS, TABLE_POOL, TABLE_LENGTH = 5, 30, 10
TABLE_NOTE = "10 tokens an entry and one key matrix for all blocks; the code has 20 tokens and a key matrix a block"


class DeepL2PConfig(L2PConfig):
    """As L2P++, in more blocks."""

    prompt_blocks: int = Field(default=5, ge=1, le=64, description="the first so many blocks are prompted")


class DeepL2P(L2P):
    """L2P++ in several blocks; images choose anew in each of them."""

    name = "deep_l2p++"
    card = MethodCard(
        title="Deep L2P++",
        summary="L2P++ with a pool of prefixes in each of the first five blocks",
        paper=L2P.card.paper,
        paper_url=L2P.card.paper_url,
        code_url=L2P.card.code_url,
    )
    Config = DeepL2PConfig

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost:
        """Table 3's row (card, sections 6 and 7): a smaller pool than Table 5 and the code have."""
        pool = (TABLE_BLOCKS * TABLE_POOL * TABLE_LENGTH + TABLE_POOL) * geometry.dim
        head = geometry.num_classes * (geometry.dim + 1)
        return PublishedCost(pool + head, train_passes=2, test_passes=2, note=TABLE_NOTE)
