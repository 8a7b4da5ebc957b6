"""Numbers in a few bits, after training.

q = round(x / scale), with scale = max |x| / (2^(bits - 1) - 1) for each row of a matrix.

A discrete pole lambda near the unit circle loses its memory, or grows, when its real and imaginary
part are rounded: 1 - |lambda| is what matters, and a grid of 8 bits is coarser. So a pole is kept
as log(-log |lambda|) and its angle, which no rounding takes out of the circle.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from s4bt.deploy.cell import Cell, StepLayer
from s4bt.reduction.checks import whole_number

POLES = ("logarithm", "uniform", "exact")


def rounded(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes (rows, columns) as int32 and scales (rows, 1): x is nearly codes * scale."""
    most = 2 ** (whole_number(bits, "bits", 2, 16) - 1) - 1
    scale = x.abs().amax(-1, keepdim=True) / most
    scale = torch.where(scale > 0, scale, 1.0).to(torch.float32)
    return (x / scale).round().clamp(-most, most).to(torch.int32), scale


def in_bits(x: Tensor, bits: int) -> Tensor:
    """x rounded to so many bits."""
    codes, scale = rounded(x.reshape(x.shape[0], -1) if x.dim() > 1 else x[None], bits)
    return (codes * scale).reshape(x.shape).to(x.dtype)


def _poles_in_bits(layer: StepLayer, bits: int, poles: str) -> None:
    if poles == "logarithm":
        fading, angle = torch.log(-layer.log_decay), layer.angle
        turn = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        layer.log_decay = -torch.exp(in_bits(fading.mT, bits).mT)
        layer.angle = in_bits(turn.mT, bits).mT
        layer.refresh()
    elif poles == "uniform":
        layer.decay_re = in_bits(layer.decay_re.mT, bits).mT
        layer.decay_im = in_bits(layer.decay_im.mT, bits).mT


@torch.no_grad()
def quantised(cell: Cell, bits: int, poles: str = "logarithm", only_poles: bool = False) -> Cell:
    """A copy of the cell whose weights have so many bits.

    poles: "logarithm", "uniform" (real and imaginary part), or "exact" (not rounded at all);
    only_poles: whether all other weights stay as they are. Biases, norms and D always do.
    Raises ValueError for another choice, or bits that are not in 2..16.
    """
    if poles not in POLES:
        raise ValueError(f"poles is one of {', '.join(POLES)}; got {poles!r}")
    new = copy.deepcopy(cell)
    for layer in new.layers:
        _poles_in_bits(layer, bits, poles)
        for name in () if only_poles else ("w_re", "w_im", "mix"):
            setattr(layer, name, in_bits(getattr(layer, name).mT, bits).mT.contiguous())
    if only_poles:
        return new
    if hasattr(new, "table"):
        new.table = in_bits(new.table, bits)
    for part in new.head.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.data = in_bits(part.weight.data.mT, bits).mT.contiguous()
    return new


@torch.no_grad()
def pruned(cell: Cell, share: float) -> Cell:
    """A copy of the cell without the smallest `share` of each mixing matrix, by magnitude."""
    new = copy.deepcopy(cell)
    for layer in new.layers:
        size = layer.mix.abs().flatten()
        gone = int(share * len(size))
        if gone:
            least = size.kthvalue(gone).values
            layer.mix = torch.where(layer.mix.abs() > least, layer.mix, 0)
    return new


def bytes_of(cell: Cell, bits: int = 32, share: float = 0.0) -> int:
    """Of all weights, in so many bits, without a `share` of the mixing matrices.

    What is left of a pruned matrix is stored with a bit for each place.  Below 32 bits every row
    has a scale of 4 bytes, and biases, norms and D stay floats.
    """
    coded, floats, places = 0, 0, 0
    matrices = [cell.table] if hasattr(cell, "table") else []
    for layer in cell.layers:
        matrices += [layer.decay_re, layer.decay_im, layer.w_re, layer.w_im]
        kept = layer.mix.numel() - int(share * layer.mix.numel())
        coded += kept
        places += layer.mix.numel() if share else 0
        floats += layer.D.numel() + layer.bias.numel() + layer.mix.shape[1] * (bits < 32)
        floats += sum(x.numel() for x in layer.norm.buffers())
    floats += sum(x.numel() for x in cell.norm.buffers())
    for part in cell.head.modules():
        if isinstance(part, torch.nn.Linear):
            matrices.append(part.weight)
            floats += part.bias.numel()
    if not hasattr(cell, "table"):
        floats += cell.gain.numel() + cell.offset.numel()
    for matrix in matrices:
        coded += matrix.numel()
        floats += min(matrix.shape) * (bits < 32)
    return math.ceil((coded * bits + places) / 8) + 4 * floats
