"""Vision transformers for faces, with the parameter names of the public InsightFace weights.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), without a class token; Huang et al., "Deep
Networks with Stochastic Depth" (ECCV 2016).
"""

from collections.abc import Mapping
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from coreface.errors import ModelError
from coreface.models.backbone import STRIDE, Backbone
from coreface.models.row_masks import RowMasks
from coreface.numerics.precision import at_least_float32

_PATCH: Final = 9
_HEADS: Final = 8


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, patches, width = x.shape
        # (3, batch, heads, patches, head_dim)
        q, k, v = self.qkv(x).view(batch, patches, 3, _HEADS, width // _HEADS).permute(2, 0, 3, 1, 4)
        scores = at_least_float32(q @ k.transpose(2, 3)) * (width // _HEADS) ** -0.5
        attended = scores.softmax(dim=3).to(v.dtype) @ v
        return cast(torch.Tensor, self.proj(attended.transpose(1, 2).reshape(batch, patches, width)))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.fc2(F.relu6(self.fc1(x))))


class _Block(nn.Module):
    """x + attention(LN(x)), then x + mlp(LN(x)); each branch may be scaled per image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = _Attention(width)
        self.mlp = _Mlp(width)

    def forward(self, x: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        """x: (batch, patches, width); scales: (batch, 2), factors of the two branches, None for 1."""
        attention = self.attn(self.norm1(x))
        x = x + (attention if scales is None else attention * scales[:, 0, None, None].to(attention.dtype))
        mlp: torch.Tensor = self.mlp(self.norm2(x))
        return x + (mlp if scales is None else mlp * scales[:, 1, None, None].to(mlp.dtype))


class _Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, _PATCH, stride=_PATCH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.proj(images).flatten(2).transpose(1, 2))


class VisionTransformer(Backbone):
    """Patches of 9 x 9 pixels, blocks of attention, and all patches flattened as the features.

    In training mode each of the two branches of a block is skipped at random for each image (stochastic depth: the rate
    rises linearly over the blocks, and the remaining branches are scaled to keep the mean), and a random fraction of
    each image's patches skips the blocks: a learned token replaces them after the last LayerNorm.

    Args:
        width: size of a patch's vector.
        depth: blocks.
        depth_rate: probability of skipping a branch of the last block, 0 <= depth_rate < 1.
        patch_rate: fraction of the patches that skip the blocks, 0 <= patch_rate < 1.
        embedding_size: D.
        image_size: side of the input, a multiple of 16 pixels. Pixels beyond the last whole patch are not used.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        depth_rate: float = 0.0,
        patch_rate: float = 0.0,
        embedding_size: int = 512,
        image_size: int = 112,
    ) -> None:
        super().__init__(embedding_size, image_size)
        for name, rate in (("depth_rate", depth_rate), ("patch_rate", patch_rate)):
            if not 0 <= rate < 1:
                raise ModelError(f"{name} is {rate}, expected 0 <= {name} < 1")
        self.patch_rate = patch_rate
        # Not a buffer: the public weights do not have it.
        self.depth_rates = [depth_rate * block / max(1, depth - 1) for block in range(depth)]
        self._checkpointed = False
        patches = (image_size // _PATCH) ** 2
        self.pos_embed = nn.Parameter(torch.empty(1, patches, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.patch_embed = _Patches(width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(patches * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def trunk(self, images: torch.Tensor, masks: RowMasks | None = None) -> torch.Tensor:
        x = self.patch_embed(images) + self.pos_embed
        batch, patches, width = x.shape
        kept = self._kept_patches(batch, patches, masks, x.device)
        if kept is not None:
            places = kept.unsqueeze(2).expand(-1, -1, width)
            x = x.gather(1, places)
        scales = self._branch_scales(batch, masks, x.device)
        for number, block in enumerate(self.blocks):
            scale = None if scales is None else scales[:, 2 * number : 2 * number + 2]
            if self._checkpointed and self.training:
                x = checkpoint(block, x, scale, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, scale)
        x = self.norm(x)
        if kept is not None:
            x = self.mask_token.to(x.dtype).expand(batch, patches, width).scatter(1, places, x)
        return cast(torch.Tensor, x.flatten(1))

    def drawn_trunk(self, images: torch.Tensor, masks: RowMasks | None) -> torch.Tensor:
        return self.trunk(images, masks)

    def _kept_patches(
        self, batch: int, patches: int, masks: RowMasks | None, device: torch.device
    ) -> torch.Tensor | None:
        """Return the indices of the patches that pass through the blocks, (batch, kept), ascending; None for all."""
        kept = max(1, int(patches * (1 - self.patch_rate)))
        if not self.training or kept == patches:
            return None
        order = _uniform(masks, "patches", batch, patches, device).argsort(dim=1, stable=True)
        return order[:, :kept].sort(dim=1).values

    def _branch_scales(self, batch: int, masks: RowMasks | None, device: torch.device) -> torch.Tensor | None:
        """Return the factors of the branches, (batch, 2 depth): 0 or 1 / (1 - rate); None if all are 1."""
        if not self.training or not any(self.depth_rates):
            return None
        rates = torch.tensor(self.depth_rates, device=device).repeat_interleave(2)
        kept = _uniform(masks, "depth", batch, len(rates), device) >= rates
        return kept / (1 - rates)

    @property
    def embedding_linear(self) -> nn.Linear:
        return cast(nn.Linear, self.feature[0])

    @property
    def embedding_norm(self) -> nn.BatchNorm1d:
        return cast(nn.BatchNorm1d, self.feature[3])

    def after_linear(self, projected: torch.Tensor) -> torch.Tensor:
        hidden = at_least_float32(self.feature[2](self.feature[1](projected)))
        return cast(torch.Tensor, self.feature[3](hidden))

    def image_size_of(self, state: Mapping[str, torch.Tensor]) -> int:
        positions = state.get("pos_embed")
        if positions is None or positions.ndim != 3:
            return self.image_size
        side = round(positions.shape[1] ** 0.5)
        return int(max(1, -(-side * _PATCH // STRIDE))) * STRIDE  # the smallest multiple of 16 with that many patches

    def checkpoint_activations(self) -> None:
        self._checkpointed = True


def _uniform(masks: RowMasks | None, draw: str, batch: int, count: int, device: torch.device) -> torch.Tensor:
    return torch.rand(batch, count, device=device) if masks is None else masks.uniform(draw, count)
