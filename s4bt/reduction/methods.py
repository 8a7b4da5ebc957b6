"""The registry of reduction methods: all there is to know of a method, once.

    reduce(system, rank, method, **options) -> DiagonalLTI

To add a method: write reducer(system, rank, **options) -> DiagonalLTI in a file of this room, and
one entry below. Configuration, figures, reports and `s4bt.compress` ask the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from s4bt.reduction.balanced import bt_channel, bt_discrete, bt_limited, bt_shared
from s4bt.reduction.gramians import promoted
from s4bt.reduction.h2 import h2
from s4bt.reduction.hankel import hankel
from s4bt.reduction.modal import modal
from s4bt.reduction.projection import check_rank
from s4bt.reduction.residualisation import singular_perturbation
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.unstable import keep_unstable
from s4bt.reduction.weighted import weighted


@dataclass(frozen=True)
class Method:
    """One way to choose a small system.

    chooses: it in a few words. balances: what its Hankel singular values are of, "layer" (the
    continuous complex layer with all its outputs), "channel" (that of one channel), "kernel" (the
    discrete real kernel), or "delayed kernel" (h[1], h[2] and so on: h[0] goes into a feedthrough).
    colour, marker: of the method in every figure; in grey the markers tell methods apart. bounded:
    whether the H-infinity error is at most twice the sum of the discarded values. feedthrough:
    whether the reduced kernel has one of its own. measures: the options that `s4bt.compress` fills
    in, from the layer's inputs ("spectrum", "length") or from its number format ("rounding").
    """

    name: str
    reducer: Callable[..., DiagonalLTI]
    chooses: str
    balances: str
    colour: str
    marker: str
    bounded: bool = False
    feedthrough: bool = False
    measures: tuple[str, ...] = ()

    @property
    def tied(self) -> bool:
        """Whether the channels keep sharing their poles."""
        return self.balances == "layer"

    @property
    def continuous(self) -> bool:
        """Whether it works on the continuous complex layer and not on the discrete real kernel."""
        return self.balances in ("layer", "channel")

    @property
    def needs_data(self) -> bool:
        """Whether it looks at the layer's inputs."""
        return "spectrum" in self.measures


_ALL = (
    Method(
        "bt-shared",
        bt_shared,
        "balanced truncation of the continuous layer, all channels at once",
        balances="layer",
        colour="#0173b2",
        marker="o",
        bounded=True,
    ),
    Method(
        "bt-channel",
        bt_channel,
        "balanced truncation of the continuous layer, channel by channel",
        balances="channel",
        colour="#029e73",
        marker="s",
        bounded=True,
    ),
    Method(
        "bt-discrete",
        bt_discrete,
        "balanced truncation of the kernel",
        balances="kernel",
        colour="#8a4fa3",
        marker="D",
        bounded=True,
    ),
    Method(
        "bt-limited",
        bt_limited,
        "the same, with what the steps of a sequence can reach, not all time",
        balances="kernel",
        colour="#00594f",
        marker="h",
        measures=("length",),
    ),
    Method(
        "singular-perturbation",
        singular_perturbation,
        "balanced, and the discarded states follow at once: exact gain at frequency zero",
        balances="delayed kernel",
        colour="#7a7a7a",
        marker="X",
        bounded=True,
        feedthrough=True,
    ),
    Method(
        "modal",
        modal,
        "the modes with the largest gain",
        balances="kernel",
        colour="#8c5400",
        marker="v",
    ),
    Method(
        "h2",
        h2,
        "the nearest kernel in the sum of squares, a local optimum",
        balances="kernel",
        colour="#d986b5",
        marker="p",
        measures=("rounding",),
    ),
    Method(
        "hankel",
        hankel,
        "the nearest kernel in the Hankel norm",
        balances="kernel",
        colour="#2b2b72",
        marker="P",
    ),
    Method(
        "weighted",
        weighted,
        "the least output error on what the layer receives",
        balances="kernel",
        colour="#d55e00",
        marker="*",
        feedthrough=True,
        measures=("rounding", "spectrum"),
    ),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def method_named(name: str) -> Method:
    """The registry's entry.  Raises ValueError, with the known names."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def reduce(
    system: DiagonalLTI,
    rank: int,
    method: str = "bt-discrete",
    dt: Any = None,
    unstable: str = "refuse",
    **options: Any,
) -> DiagonalLTI:
    """Reduce every system of the batch to `rank` modes.

    Parameters
    ----------
    system : DiagonalLTI
        Continuous or discrete, (..., N).
    rank : int
        Modes to keep, a complex one counts once.
    method : str
        A key of METHODS.
    dt : number or tensor (H,), optional
        Steps of a continuous system: methods that work on the discrete kernel discretise it with
        them (zero-order hold) and give a continuous system back; the others do not need them.
    unstable : "refuse" or "keep"
        keep: reduce the stable part and keep the other modes, which count.
    **options
        The method's own, such as `spectrum` of weighted.

    Returns
    -------
    DiagonalLTI with `rank` modes, complex128.

    Raises
    ------
    ValueError
        For an unknown method, a rank out of range, and whatever the method refuses.
    TypeError
        For an option that the method does not have.

    Examples
    --------
    >>> import torch
    >>> poles = torch.tensor([-0.1 + 2j, -0.2 + 5j, -3.0 + 1j], dtype=torch.complex128)
    >>> reduce(DiagonalLTI(poles, torch.tensor([1.0, 0.5, 0.1])), 1, "modal").poles
    tensor([-0.1000+2.j], dtype=torch.complex128)
    """
    entry = method_named(method)
    if unstable not in ("refuse", "keep"):
        raise ValueError(f"unstable is 'refuse' or 'keep', not {unstable!r}")
    check_rank(rank, system.modes)
    if dt is not None and system.dt is not None:
        raise ValueError(
            f"the system is discrete, with step {system.dt}; dt is for continuous ones"
        )
    if dt is not None and not entry.continuous:
        kernel = promoted(system).discretize(dt)
        return reduce(kernel, rank, method, None, unstable, **options).to_continuous()
    if unstable == "keep" and not bool(system.stable().all()):
        return keep_unstable(promoted(system), rank, entry.reducer, options)
    return entry.reducer(system, rank, **options)
