"""The largest value of a gain over all frequencies, by sampling and zooming.

B       systems
omega   (B, M)  frequencies
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

HIGHEST = 8  # local maxima that are refined; half as many after every zoom
CELLS = 16  # parts of a bracket; a zoom keeps two of them, so it divides the bracket by eight
TWINS = 16 * torch.finfo(torch.float64).eps  # relative: one frequency, computed in two ways


def highest_peak(gain: Callable[[Tensor], Tensor], omega: Tensor, zooms: int) -> Tensor:
    """max over frequencies of gain, (B,), refined around the highest samples.

    gain: maps frequencies (B, ...) to gains of the same shape; omega: (B, M), where it is sampled
    first.
    """
    omega = omega.sort(-1).values
    value = gain(omega)
    lowest = -1.0
    around = pad(value, (1, 1), value=lowest)
    # equal frequencies count once
    first = pad(omega.diff(dim=-1) > 0, (1, 0), value=True)
    local = (value >= around[:, :-2]) & (value >= around[:, 2:]) & first
    peaks = torch.where(local, value, lowest)
    best = omega.gather(-1, peaks.topk(min(HIGHEST, peaks.shape[-1]), -1).indices)
    # a bracket ends behind the twins of its sample: rounding may choose the one on the far side
    twins = TWINS * best.abs()
    low = omega.gather(-1, (torch.searchsorted(omega, best - twins) - 1).clamp(min=0))
    after = torch.searchsorted(omega, best + twins, right=True)
    high = omega.gather(-1, after.clamp(max=omega.shape[-1] - 1))
    share = torch.linspace(0, 1, CELLS + 1, device=omega.device, dtype=omega.dtype)
    top = value.amax(-1)[:, None, None]
    for _ in range(zooms):
        grid = low[..., None] + (high - low)[..., None] * share  # (B, peaks, CELLS + 1)
        top, index = gain(grid).max(-1, keepdim=True)
        low = grid.gather(-1, (index - 1).clamp(min=0))[..., 0]
        high = grid.gather(-1, (index + 1).clamp(max=CELLS))[..., 0]
        kept = top[..., 0].topk((top.shape[1] + 1) // 2, -1).indices
        low, high, top = (
            low.gather(-1, kept),
            high.gather(-1, kept),
            top.gather(-2, kept[..., None]),
        )
    return torch.maximum(top[..., 0].amax(-1), value.amax(-1))
