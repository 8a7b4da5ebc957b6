"""How many modes every layer keeps: rules for `s4bt.compress`.

A rule is a function (kernels, spectra) -> one rank per layer; kernels: the layers' discrete real
systems, (H, N) each; spectra: of their inputs, (H, L + 1) each, or None for white inputs. The
functions here make rules.

sigma   Hankel singular values of one channel's kernel; a complex mode takes two of them
total   states of the whole model: sum of the ranks over its layers
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from s4bt.reduction.balanced import bt_discrete, error_bounds, order_kept
from s4bt.reduction.checks import whole_number
from s4bt.reduction.gramians import hankel_singular_values
from s4bt.reduction.inner_products import output_energy
from s4bt.reduction.modal import modal_scores, mode_norms
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.weighted import autocorrelation

Rule = Callable[[list[DiagonalLTI], list[Tensor] | None], list[int]]
# Ranks at which `budget` looks at a layer's error; in between the curve is taken for straight.
LOOKED_AT = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def _smallest(good: Tensor, largest: int) -> int:
    """The smallest rank, from 1, whose entry of good holds; the largest if none does."""
    return int(good.nonzero()[0, 0]) + 1 if bool(good.any()) else largest


def _unit(kernel: DiagonalLTI) -> DiagonalLTI:
    """A layer with residues near 1: its squares neither over- nor underflow."""
    return kernel.times(1 / kernel.unit().max())


def _check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")


def _check_total(total: int, kernels: list[DiagonalLTI]) -> None:
    most = sum(kernel.modes for kernel in kernels)
    whole_number(total, f"the states of {len(kernels)} layers together", len(kernels), most)


def _rank_for_bound(kernel: DiagonalLTI, share: float) -> int:
    sigma = hankel_singular_values(kernel)
    allowed = share * kernel.hinf_norm()
    # (H, 2 N + 1): after 0, 1, … values
    tail = torch.nn.functional.pad(error_bounds(sigma), (0, 1))
    rank = _smallest((tail[:, 2::2] <= allowed[:, None]).all(0), kernel.modes)
    # real poles take a mode each: the order may be below 2 rank
    while rank < kernel.modes:
        order = order_kept(bt_discrete(kernel, rank))
        if bool((tail.gather(-1, order[:, None])[:, 0] <= allowed).all()):
            break
        rank += 1
    return rank


def by_bound(share: float) -> Rule:
    """The smallest rank of every layer whose bound is at most `share` of the H-infinity norm.

    2 sum_{i > k} sigma_i in every channel, where k is the real order that bt-discrete keeps with
    that rank: 2 r, less one for every real pole.
    """
    _check_share(share, "the share of the gain")

    def rule(kernels: list[DiagonalLTI], spectra: list[Tensor] | None = None) -> list[int]:
        return [_rank_for_bound(kernel, share) for kernel in kernels]

    return rule


def by_energy(share: float) -> Rule:
    """The smallest rank of every layer that keeps `share` of its sum of sigma_i^2."""
    _check_share(share, "the share of the energy")

    def rule(kernels: list[DiagonalLTI], spectra: list[Tensor] | None = None) -> list[int]:
        found = []
        for kernel in kernels:
            energy = hankel_singular_values(_unit(kernel)).square().sum(0)
            enough = energy.cumsum(0)[1::2] >= share * energy.sum()
            found.append(_smallest(enough, kernel.modes))
        return found

    return rule


def _energy(system: DiagonalLTI, spectrum: Tensor | None) -> float:
    """Mean energy of the output of all channels, for inputs with that spectrum or white ones."""
    if spectrum is None:
        return float(system.h2_norm().square().sum())
    r, loudness = autocorrelation(spectrum)
    return float((output_energy(system, r) * loudness.square()).sum())


def _lower_hull(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points (rank, error) on the lower convex hull, as far as the error falls."""
    hull = [points[0]]
    for r, e in points[1:]:
        while len(hull) > 1:
            (r0, e0), (r1, e1) = hull[-2:]
            above = (e1 - e) * (r1 - r0) > (e0 - e1) * (r - r1)
            if not above:
                break
            hull.pop()
        if e < hull[-1][1]:
            hull.append((r, e))
    return hull


def _error_curve(kernel: DiagonalLTI, spectrum: Tensor | None) -> list[tuple[int, float]]:
    """(rank, relative error of bt-discrete) on the lower convex hull."""
    kernel, ranks = _unit(kernel), [r for r in LOOKED_AT if r < kernel.modes]
    # a silent layer has no error
    whole = _energy(kernel, spectrum) or 1.0
    points = [(r, _energy(kernel - bt_discrete(kernel, r), spectrum) / whole) for r in ranks]
    return _lower_hull([*points, (kernel.modes, 0.0)])


def budget(total: int) -> Rule:
    """Ranks that sum to at most `total`, with a small sum over layers of relative output errors.

    Greedy on the lower convex hull of the error that bt-discrete would make against the rank: the
    next states go where they save most per state. Errors are those of the inputs' spectra, or of
    white inputs.
    """

    def rule(kernels: list[DiagonalLTI], spectra: list[Tensor] | None = None) -> list[int]:
        _check_total(total, kernels)
        curves = [
            _error_curve(kernel, None if spectra is None else spectra[i])
            for i, kernel in enumerate(kernels)
        ]
        # (error saved per state, layer, from the larger rank, down to the smaller)
        offers = sorted(
            ((e - f) / (q - r), layer, q, r)
            for layer, curve in enumerate(curves)
            for (r, e), (q, f) in pairwise(curve)
        )
        ranks = [1] * len(kernels)
        # on a hull the offers of a layer come in their order
        for _, layer, high, low in reversed(offers):
            if ranks[layer] == low:
                ranks[layer] += min(high - low, total - sum(ranks))
        return ranks

    return rule


def _layer_adaptive(total: int, norms: Callable[[DiagonalLTI], Tensor]) -> Rule:
    def rule(kernels: list[DiagonalLTI], spectra: list[Tensor] | None = None) -> list[int]:
        _check_total(total, kernels)
        ranked = []
        for layer, kernel in enumerate(kernels):
            size = norms(_unit(kernel)).square().sort(-1, descending=True).values.sum(0)
            score = torch.where(size > 0, size / size.cumsum(0), 0)
            ranked += [(float(s), -layer) for s in score[1:]]
        ranks = [1] * len(kernels)
        for _, layer in sorted(ranked, reverse=True)[: total - len(kernels)]:
            ranks[-layer] += 1
        return ranks

    return rule


def layer_adaptive(total: int) -> Rule:
    """Ranks that sum to `total`, by layer-adaptive state pruning; for the method modal.

    The score of a mode is its squared H-infinity norm over the sum of those of its layer that are
    not smaller; the best scores of all layers are kept. A layer's channels share one rank: squares
    are sorted in each channel and summed over the channels.  (Gwak et al. 2024, LAST)
    """
    return _layer_adaptive(total, modal_scores)


def energy_adaptive(total: int) -> Rule:
    """As `layer_adaptive`, with H2 norms; for the method energy.

    (Padhy et al. 2026, AIRE-Prune)
    """
    return _layer_adaptive(total, mode_norms)
