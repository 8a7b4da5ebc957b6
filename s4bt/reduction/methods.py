"""The registry of reduction methods: all there is to know of a method, once.

To add a method: write reducer(system, rank, **options) -> DiagonalLTI in a file of this room, and
one entry below. Configuration, figures, reports and `s4bt.compress` ask the registry. It imports no
reducer and no torch, so what only draws or compares depends on none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

# Defaults of the fits, chosen on validation data (notebooks/pipeline/25_choose, 60_compare). One
# share of white input for both, that of `weighted`: it describes the inputs, not the fit.
PERTURBATION = 0.002  # relative error of every number that they allow for
SHARED_PERTURBATION = 0.005  # the same of poles that all channels share
WHITE = 0.1  # share of white input beside what a layer receives
CHOSEN = {
    "weighted": {"perturbation": PERTURBATION, "white": WHITE},
    "weighted-shared": {"perturbation": SHARED_PERTURBATION, "white": WHITE},
}


@dataclass(frozen=True)
class Method:
    """One way to choose a small system.

    home: "file.function" of the reducer, which is loaded when it is first asked for.
    chooses: it in a few words.
    balances: what its Hankel singular values are of, "layer" (the continuous complex layer with all
    its outputs), "channel" (that of one channel), "kernel" (the discrete real kernel), or "delayed
    kernel" (h[1], h[2] and so on: h[0] goes into a feedthrough).
    colour, marker: of the method in every figure; in grey the markers tell methods apart.
    bounded: whether the H-infinity error is at most twice the sum of the discarded values.
    feedthrough: whether the reduced kernel has one of its own.
    local: whether it descends to a local minimum, so that rounding may decide which.
    tied: whether the channels keep sharing their poles; else each of them gets its own.
    measures: the options that `s4bt.compress` fills in, from the layer's inputs ("spectrum",
    "length").
    """

    name: str
    home: str
    chooses: str
    balances: str
    colour: str
    marker: str
    bounded: bool = False
    feedthrough: bool = False
    measures: tuple[str, ...] = ()
    tied: bool = False
    local: bool = False

    @property
    def reducer(self) -> Callable:
        """reducer(system, rank, **options) -> DiagonalLTI."""
        file, name = self.home.split(".")
        return getattr(importlib.import_module(f"s4bt.reduction.{file}"), name)

    @property
    def joint(self) -> bool:
        """Whether what is balanced is the whole layer, with all its outputs."""
        return self.balances == "layer"

    @property
    def continuous(self) -> bool:
        """Whether it works on the continuous complex layer and not on the discrete real kernel."""
        return self.balances in ("layer", "channel")

    @property
    def delayed(self) -> bool:
        """Whether h[0] has no part in what is balanced."""
        return self.balances == "delayed kernel"

    @property
    def needs_data(self) -> bool:
        """Whether it looks at the layer's inputs."""
        return "spectrum" in self.measures


_ALL = (
    Method(
        "bt-shared",
        "balanced.bt_shared",
        "balanced truncation of the continuous layer, all channels at once",
        balances="layer",
        colour="#0173b2",
        marker="o",
        bounded=True,
        tied=True,
    ),
    Method(
        "bt-channel",
        "balanced.bt_channel",
        "balanced truncation of the continuous layer, channel by channel",
        balances="channel",
        colour="#029e73",
        marker="s",
        bounded=True,
    ),
    Method(
        "bt-discrete",
        "balanced.bt_discrete",
        "balanced truncation of the kernel",
        balances="kernel",
        colour="#8a4fa3",
        marker="D",
        bounded=True,
    ),
    Method(
        "bt-limited",
        "balanced.bt_limited",
        "the same, with what the steps of a sequence can reach, not all time",
        balances="kernel",
        colour="#00594f",
        marker="h",
        measures=("length",),
    ),
    Method(
        "singular-perturbation",
        "residualisation.singular_perturbation",
        "balanced, and the discarded states follow at once: exact gain at frequency zero",
        balances="delayed kernel",
        colour="#7a7a7a",
        marker="X",
        bounded=True,
        feedthrough=True,
    ),
    Method(
        "modal",
        "modal.modal",
        "the modes with the largest gain",
        balances="kernel",
        colour="#8c5400",
        marker="v",
    ),
    Method(
        "energy",
        "modal.energy",
        "the modes with the largest energy",
        balances="kernel",
        colour="#b3a100",
        marker="^",
    ),
    Method(
        "h2",
        "h2.h2",
        "the least expected error for white inputs, a local optimum",
        balances="kernel",
        colour="#d986b5",
        marker="p",
        measures=("length",),
        local=True,
    ),
    Method(
        "hankel",
        "hankel.hankel",
        "the nearest kernel in the Hankel norm",
        balances="kernel",
        colour="#2b2b72",
        marker="P",
    ),
    Method(
        "weighted",
        "weighted.weighted",
        "the least expected output error on what the layer receives",
        balances="kernel",
        colour="#d55e00",
        marker="*",
        feedthrough=True,
        measures=("spectrum",),
        local=True,
    ),
    Method(
        "weighted-shared",
        "weighted.weighted_shared",
        "the same with poles that all channels share",
        balances="kernel",
        colour="#ca9161",
        marker="d",
        feedthrough=True,
        measures=("spectrum",),
        local=True,
        tied=True,
    ),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def method_named(name: str) -> Method:
    """The registry's entry.  Raises ValueError, with the known names."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
