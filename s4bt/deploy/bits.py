"""Numbers in a few bits, after training.

q = round(x / scale), with scale = max |x| / (2^(bits - 1) - 1) for each row of a matrix.

A discrete pole lambda near the unit circle loses its memory, or grows, when its real and imaginary
part are rounded: 1 - |lambda| is what matters, and a grid of 8 bits is coarser. So a pole is kept
as log(-log |lambda|) and its angle, around the middle of their row: a relative error of its memory,
and it stays inside (in single precision up to memories of 10^7 steps).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from s4bt.deploy.cell import Cell, StepLayer
from s4bt.reduction.checks import whole_number

POLES = ("logarithm", "uniform", "exact")


def rounded(x: Tensor, bits: int, centred: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (rows, columns) as int32, scales and middles (rows, 1): x is codes * scale + middle.

    centred: whether a row's middle is that of its range, not 0.
    """
    most = 2 ** (whole_number(bits, "bits", 2, 16) - 1) - 1
    middle = (x.amax(-1, keepdim=True) + x.amin(-1, keepdim=True)) / 2 * centred
    scale = (x - middle).abs().amax(-1, keepdim=True) / most
    scale = torch.where(scale > 0, scale, 1.0).to(torch.float32)
    middle = middle.to(torch.float32)
    codes = ((x - middle) / scale).round().clamp(-most, most).to(torch.int32)
    return codes, scale, middle


def in_bits(x: Tensor, bits: int, centred: bool = False) -> Tensor:
    """x (rows, columns) rounded to so many bits."""
    codes, scale, middle = rounded(x, bits, centred)
    return (codes * scale + middle).to(x.dtype)


def turn(layer: StepLayer) -> Tensor:
    """The angles of a layer's poles, from -pi to pi, (H, N)."""
    return torch.remainder(layer.angle + math.pi, 2 * math.pi) - math.pi


def _poles_in_bits(layer: StepLayer, bits: int, poles: str) -> None:
    if poles == "logarithm":
        fading = torch.log(-layer.log_decay)
        angle = in_bits(turn(layer).mT, bits, True).mT
        layer.log_decay = -torch.exp(in_bits(fading.mT, bits, True).mT)
        layer.angle = angle
    elif poles == "uniform":
        re, im = (in_bits(x.mT, bits).mT for x in (layer.decay_re, layer.decay_im))
        z = torch.complex(re.double(), im.double())
        layer.log_decay, layer.angle = torch.log(z.abs().clamp_min(1e-30)), torch.angle(z)
    layer.refresh()


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
    """A copy of the cell without the smallest `share` of each mixing matrix, by magnitude.

    Raises ValueError for a share that is not in 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0..1; got {share}")
    new = copy.deepcopy(cell)
    for layer in new.layers:
        size = layer.mix.abs().flatten()
        gone = int(share * len(size))
        if gone:
            left = layer.mix.flatten().clone()
            left[size.argsort(stable=True)[:gone]] = 0
            layer.mix = left.reshape(layer.mix.shape)
    return new


def bytes_of(
    cell: Cell,
    bits: int = 32,
    share: float = 0.0,
    poles: str = "logarithm",
    only_poles: bool = False,
) -> int:
    """Of all weights, in so many bits, without a `share` of the mixing matrices.

    What is left of a pruned matrix is stored with a bit for each place.  Below 32 bits every row
    that is coded has a scale of 4 bytes, those of poles as logarithms a middle, too; biases, norms
    and D stay floats.  poles, only_poles: as of `quantised`.
    """
    coded = floats = places = 0

    def add(count: int, rows: int, exact: bool = False, centred: bool = False) -> None:
        nonlocal coded, floats
        if bits == 32 or exact:
            floats += count
        else:
            coded += count
            floats += rows * (2 if centred else 1)

    if hasattr(cell, "table"):
        add(cell.table.numel(), len(cell.table), only_poles)
    else:
        floats += cell.gain.numel() + cell.offset.numel()
    for layer in cell.layers:
        H, N = layer.w_re.shape
        for _ in range(2):
            add(H * N, N, poles == "exact", poles == "logarithm")
            add(H * N, N, only_poles)
        add(H * H - int(share * H * H), H, only_poles)
        places += H * H if share else 0
        floats += 2 * H + sum(x.numel() for x in layer.norm.buffers())
    floats += sum(x.numel() for x in cell.norm.buffers())
    for part in cell.head.modules():
        if isinstance(part, torch.nn.Linear):
            add(part.weight.numel(), part.in_features, only_poles)
            floats += part.out_features
    return math.ceil((coded * bits + places) / 8) + 4 * floats
