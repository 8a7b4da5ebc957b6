"""Reducing the stable part of systems that have poles which are not stable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4bt.reduction.diagonal import as_tensor
from s4bt.reduction.diagonalisation import joined
from s4bt.reduction.systems import DiagonalLTI


def keep_unstable(
    system: DiagonalLTI, rank: int, reducer: Callable[..., DiagonalLTI], options: dict[str, Any]
) -> DiagonalLTI:
    """Reduce the stable modes of every channel to what the others, which stay, leave of the rank.

    Raises ValueError if the modes that stay leave nothing for the rest, or an option does not fit
    the channels, and what the reducer raises.
    """
    if rank == system.modes:
        return system
    if len(system.batch) != 1:
        flat = keep_unstable(system.flatten(), rank, reducer, options)
        return replace(flat.unflatten(system.batch), dt=system.dt)
    stable = system.stable()
    growing = (~stable).sum(-1)
    if int(growing.max()) >= rank:
        raise ValueError(
            f"{int(growing.max())} of {system.modes} poles of channel {int(growing.argmax())} are "
            f"not stable and would be kept, which leaves no mode of rank {rank} for the rest; ask "
            "for a larger one"
        )
    # the stable ones in front
    ordered = system.take((~stable).to(torch.int8).argsort(dim=-1, stable=True))
    parts, places = [], []
    for number in growing.unique().tolist():
        index = (growing == number).nonzero()[:, 0]
        own = {name: _of_channels(value, index, system) for name, value in options.items()}
        parts.append(_reduced_part(ordered.select(index), number, rank, reducer, own))
        places.append(index)
    return joined(parts).select(torch.cat(places).argsort())


def _of_channels(option: Any, index: Tensor, system: DiagonalLTI) -> Any:
    """What of an option belongs to some channels: their rows, if it is an array (H, ...)."""
    if not isinstance(option, np.ndarray | Tensor):
        return option
    option = as_tensor(option).to(index.device)
    if len(option) != len(system.poles):
        raise ValueError(f"{len(option)} rows of an option for {len(system.poles)} channels")
    return option[index]


def _reduced_part(
    part: DiagonalLTI, number: int, rank: int, reducer: Callable[..., DiagonalLTI], options: dict
) -> DiagonalLTI:
    """`keep_unstable` of channels whose last `number` modes are those that are not stable."""
    split = part.modes - number
    small = reducer(part.map(lambda x: x[..., :split]), min(rank - number, split), **options)
    pad = rank - number - small.modes

    def filled(of_small: Tensor, of_part: Tensor) -> Tensor:
        spare = of_small[..., :1].expand(*small.batch, pad)
        return torch.cat([of_small, of_part[..., split:], spare], -1)

    silent = small.residues.new_zeros(*small.batch, pad)
    logs = None
    if small.log_poles is not None and part.log_poles is not None:
        logs = filled(small.log_poles, part.log_poles)
    return replace(
        small,
        poles=filled(small.poles, part.poles),
        residues=torch.cat([small.residues, part.residues[..., split:], silent], -1),
        log_poles=logs,
    )
