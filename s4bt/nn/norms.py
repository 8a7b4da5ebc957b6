"""Norms over (B, H, L) sequences whose channels lead in memory.

B, H, L   batch, channels, length
rows      (H, B L): with batch norm the layout in memory of all that passes through the blocks, so
          that nothing is copied
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


def as_rows(u: Tensor) -> Tensor:
    """(B, H, L) as (H, B L)."""
    return u.transpose(0, 1).flatten(1)


def as_sequences(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_rows`, (B, H, L) of the batch and length of `like`."""
    return rows.view(-1, len(like), like.shape[-1]).transpose(0, 1)


class SumOverProcesses(torch.autograd.Function):
    """Sum of x over the processes of `torch.distributed`; so is its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return SumOverProcesses.forward(None, grad)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the channels of (B, H, L); with `torch.distributed` over all processes."""

    def forward(self, u: Tensor) -> Tensor:
        x = as_rows(u)
        if not (self.training and distributed.is_initialized()):
            return as_sequences(super().forward(x[None])[0], u)
        total = SumOverProcesses.apply
        sums, size = total(torch.cat([x.sum(1), x.new_tensor([x.shape[1]])])).split([len(x), 1])
        mean = sums / size
        centred = x - mean[:, None]
        var = total(centred.square().sum(1)) / size
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * size / (size - 1), self.momentum)
        scale = (self.weight * torch.rsqrt(var + self.eps))[:, None]
        return as_sequences(torch.addcmul(self.bias[:, None], centred, scale), u)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, H, L)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, u: Tensor) -> Tensor:
        return self.norm(u.mT).mT


def norm_over_channels(kind: str, width: int) -> nn.Module:
    """The norm named "batch" or "layer"."""
    return BatchNorm(width) if kind == "batch" else ChannelNorm(width)
