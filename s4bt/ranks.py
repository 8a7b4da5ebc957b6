"""How many modes every layer keeps: rules for `s4bt.model.truncate`.

A rule is a function (kernels, spectra) -> one rank per layer; kernels: the layers' discrete real systems, (H, N) each; spectra: of their
inputs, (H, L + 1) each, or None for white inputs. The functions here make rules.

sigma       Hankel singular values of one channel's kernel; a complex mode takes two of them
total       states of the whole model: sum of the ranks over its layers
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from s4bt.balance import error_bounds, order_kept
from s4bt.fit import output_energy
from s4bt.gramian import hankel_singular_values
from s4bt.lti import DiagonalLTI
from s4bt.reducers import bt_discrete, modal_scores

Rule = Callable[[list[DiagonalLTI], list[Tensor] | None], list[int]]


def _smallest(good: Tensor, order: int) -> int:
    """The smallest rank whose entry of good (order,), for ranks 1 .. order, holds; the order if none does."""
    return int(good.nonzero()[0, 0]) + 1 if bool(good.any()) else order


def _share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")


def by_bound(share: float) -> Rule:
    """For every layer the smallest rank whose bound 2 sum_{i > k} sigma_i is at most `share` of the H-infinity norm, in every channel.

    k is the real order that bt-discrete keeps with that rank: 2 r, less one for every real pole.
    """
    _share(share, "the share of the gain")

    def rule(kernels: list[DiagonalLTI], spectra: list[Tensor] | None = None) -> list[int]:
        found = []
        for kernel in kernels:
            sigma = hankel_singular_values(kernel)
            tail, allowed = error_bounds(sigma), share * kernel.hinf_norm()
            tail = torch.nn.functional.pad(tail, (0, 1))                                 # (H, 2 N + 1): after 0, 1, … values
            rank = _smallest((tail[:, 2::2] <= allowed[:, None]).all(0), kernel.order)
            while rank < kernel.order:                               # real poles take a mode each: the order may be below 2 rank
                order = order_kept(bt_discrete(kernel, rank))
                if bool((tail.gather(-1, order[:, None])[:, 0] <= allowed).all()):
                    break
                rank += 1
            found.append(rank)
        return found
    return rule


def by_energy(share: float) -> Rule:
    """For every layer the smallest rank that keeps `share` of the sum of sigma_i^2 over all its channels."""
    _share(share, "the share of the energy")

    def rule(kernels: list[DiagonalLTI], spectra: list[Tensor] | None = None) -> list[int]:
        found = []
        for kernel in kernels:
            energy = hankel_singular_values(kernel).square().sum(0)
            found.append(_smallest(energy.cumsum(0)[1::2] >= share * energy.sum(), kernel.order))
        return found
    return rule


def _check_total(total: int, kernels: list[DiagonalLTI]) -> None:
    most = sum(kernel.order for kernel in kernels)
    if not isinstance(total, int) or not len(kernels) <= total <= most:
        raise ValueError(f"a budget for {len(kernels)} layers is a whole number of states from {len(kernels)} to {most}; got {total!r}")


def budget(total: int) -> Rule:
    """Ranks that sum to at most `total`, with a small sum over layers of the relative output errors that bt-discrete would make.

    Greedy on the lower convex hull of each layer's error against its rank: the next states go where they save most per state.
    Errors are those of the inputs' spectra, or of white inputs.
    """
    def curve(kernel: DiagonalLTI, spectrum: Tensor | None) -> list[tuple[int, float]]:
        ranks = sorted({r for r in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256) if r < kernel.order} | {kernel.order})
        if spectrum is None:
            energy = lambda s: float(s.h2_norm().square().sum())  # noqa: E731
        else:
            energy = lambda s: float(output_energy(s.impulse_response(spectrum.shape[-1] - 1), spectrum).sum())  # noqa: E731
        whole = energy(kernel) or 1.0                                # a silent layer has no error
        points = [(r, energy(kernel - bt_discrete(kernel, r)) / whole) for r in ranks[:-1]] + [(kernel.order, 0.0)]
        hull = [points[0]]
        for r, e in points[1:]:
            while len(hull) > 1 and (hull[-1][1] - e) * (hull[-1][0] - hull[-2][0]) > (hull[-2][1] - hull[-1][1]) * (r - hull[-1][0]):
                hull.pop()
            if e < hull[-1][1]:
                hull.append((r, e))
        return hull

    def rule(kernels: list[DiagonalLTI], spectra: list[Tensor] | None = None) -> list[int]:
        _check_total(total, kernels)
        curves = [curve(k, None if spectra is None else spectra[i]) for i, k in enumerate(kernels)]
        steps = sorted(((e - f) / (q - r), i, q, r) for i, c in enumerate(curves) for (r, e), (q, f) in zip(c, c[1:]))
        ranks = [1] * len(kernels)
        for _, i, high, low in reversed(steps):                      # on a hull the steps of a layer come in their order
            if ranks[i] == low:
                ranks[i] += min(high - low, total - sum(ranks))
        return ranks
    return rule


def last(total: int) -> Rule:
    """Ranks that sum to `total` by the scores of layer-adaptive state pruning, for the method modal. (Gwak et al. 2024)

    The score of a mode is its squared H-infinity norm over the sum of those of its layer that are not smaller; the best scores of all
    layers are kept. A layer's channels share one rank: squares are sorted in each channel and summed over the channels.
    """
    def rule(kernels: list[DiagonalLTI], spectra: list[Tensor] | None = None) -> list[int]:
        _check_total(total, kernels)
        norms = [modal_scores(kernel).square().sort(-1, descending=True).values.sum(0) for kernel in kernels]
        scores = [torch.where(norm > 0, norm / norm.cumsum(0), 0) for norm in norms]
        ranked = sorted(((float(s), -i) for i, score in enumerate(scores) for s in score[1:]), reverse=True)
        ranks = [1] * len(kernels)
        for _, i in ranked[:total - len(kernels)]:
            ranks[-i] += 1
        return ranks
    return rule
