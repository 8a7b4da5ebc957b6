"""`weighted`: the small kernel with the least expected output error on what a layer receives.

L     length of the sequences
S     (H, L + 1)  spectrum of a layer's inputs, the mean of |rfft(u, 2L)|^2 over sequences
r[k]  (H, L)      their autocorrelation, irfft(S): sum_t u[t] u[t + k], the mean over sequences
K     kernels, for all time

    int S(f) |K(f) - K_r(f)|^2 df   the mean energy of (K - K_r) * u over all time, plus
    mu mean(S) ||K - K_r||^2        the same of white inputs with a share mu of the energy, plus
    what a relative error eps of every number of K_r adds to it in expectation

The first two are one sum with r[0] (1 + mu) for r[0], in closed form (`inner_products`). Without
mu nothing holds the kernel at frequencies that the sequences lack, such as those of longer ones;
without eps large terms cancel, and no number of the fit may change.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from s4bt.reduction.balanced import bt_limited, bt_shared, require_discrete
from s4bt.reduction.checks import not_negative, whole_number
from s4bt.reduction.diagonal import as_tensor, per_batch, power_of_four
from s4bt.reduction.gramians import promoted
from s4bt.reduction.projection import check_rank
from s4bt.reduction.inner_products import Target
from s4bt.reduction.modal import energy
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.variable_projection import (
    ITERATIONS,
    Problem,
    best_fit,
    damping_range,
    evaluate,
    minimise,
    fitted,
    system_at,
)

PERTURBATION = 2.0**-9
WHITE = 0.1


def _weights(spectrum: Tensor) -> Tensor:
    """Roots of the weights (H, L + 1) of rfft coefficients.

    The sum over them is the mean energy.
    """
    L = spectrum.shape[-1] - 1
    twice = torch.full((L + 1,), 2.0, dtype=spectrum.dtype, device=spectrum.device)
    twice[0] = twice[-1] = 1.0
    return (spectrum * twice / (2 * L)).sqrt()


def output_energy(kernel: Tensor, spectrum: Tensor) -> Tensor:
    """Mean energy (H) of kernel * u, sum_f S(f) |K(f)|^2.

    kernel: (H, L); spectrum: (H, L + 1).
    """
    K = torch.fft.rfft(kernel, 2 * kernel.shape[-1])
    return (K * _weights(spectrum)).abs().square().sum(-1)


def autocorrelation(spectrum: Tensor, white: float) -> Tensor:
    """r (H, L) with r[0] = 1 + white, of the spectrum (H, L + 1)."""
    L = spectrum.shape[-1] - 1
    r = torch.fft.irfft(spectrum, 2 * L)[:, :L]
    r = r / r[:, :1]
    r[:, 0] = 1 + white
    return r


def checked_spectrum(system: DiagonalLTI, spectrum: Tensor | None) -> Tensor:
    """The spectrum in float64 on the system's device, near 1; the fit does not see its size.

    Raises ValueError if it does not fit.
    """
    if spectrum is None:
        raise ValueError(
            "weighted needs the spectrum of the layer's inputs, (H, L + 1), as the option "
            "`spectrum`; `compress` measures it on the sequences of `calibration`"
        )
    S = as_tensor(spectrum).to(system.poles.device)
    if S.is_complex():
        raise ValueError("a spectrum holds squared moduli, which are real; this one is complex")
    one_batch = len(system.batch) == 1
    if (
        not system.real
        or not one_batch
        or S.dim() != 2
        or S.shape[-1] < 3
        or len(S) != len(system.poles)
    ):
        raise ValueError(
            "weighted takes real systems (H, N) and a spectrum (H, L + 1), L >= 2; got "
            f"{tuple(system.poles.shape)} and {tuple(S.shape)}"
        )
    bad = ~(torch.isfinite(S) & (S >= 0)).all(-1) | (S.amax(-1) == 0)
    if bad.any():
        raise ValueError(
            f"the spectrum of {int(bad.sum())} of {len(S)} channels is zero, negative or not "
            f"finite; the first is channel {int(bad.nonzero()[0, 0])}"
        )
    S = S.to(torch.float64)
    return S / power_of_four(S.amax(-1))[:, None]


def weighted(
    system: DiagonalLTI,
    rank: int,
    spectrum: Tensor | None = None,
    iterations: int = ITERATIONS,
    perturbation: float = PERTURBATION,
    white: float = WHITE,
) -> DiagonalLTI:
    """Least expected output error on the inputs whose spectrum is given.

    spectrum: (H, L + 1), mean of |rfft(u_h, 2 L)|^2 over sequences of a layer's inputs. white: mu,
    the energy of white inputs beside them, as a share of theirs. perturbation: eps, the relative
    error of every number that the fit allows for. The reduced system has a feedthrough. Starts from
    `bt_discrete`, `bt_limited` and `energy`, and keeps the best of each channel.
    Raises ValueError if the spectrum is missing, of the wrong shape, negative, not finite or zero
    in a channel; else as `bt_discrete`.
    """
    require_discrete(system, "weighted fits a discrete kernel")
    iterations = whole_number(iterations, "iterations", 0)
    perturbation, white = not_negative(perturbation, "perturbation"), not_negative(white, "white")
    S = checked_spectrum(system, spectrum)
    L = S.shape[-1] - 1

    def fit(full: DiagonalLTI, start: DiagonalLTI) -> DiagonalLTI:
        target = Target.of(full, autocorrelation(S, white))
        problem = Problem(target, perturbation, damping_range(full, L))
        starts = [start, bt_limited(full, rank, L), energy(full, rank)]
        point = best_fit(problem, starts, iterations)
        return system_at(full, point.a, point.x, point.x[:, -1])

    return fitted(system, rank, fit)


def weighted_shared(
    system: DiagonalLTI,
    rank: int,
    spectrum: Tensor | None = None,
    iterations: int = ITERATIONS,
    perturbation: float = PERTURBATION,
    white: float = WHITE,
) -> DiagonalLTI:
    require_discrete(system, "weighted-shared fits a discrete kernel")
    S = checked_spectrum(system, spectrum)
    L = S.shape[-1] - 1
    rank = check_rank(rank, system.modes)
    if rank == system.modes:
        return promoted(system)
    full = promoted(system)
    steps = per_batch(full.dt, full.poles)[..., 0].expand(len(full.poles))
    lam = full.logs / steps[:, None]
    if bool(((lam - lam[:1]).abs() > 1e-9 * lam.abs()).any()):
        raise ValueError("weighted-shared needs channels that share their poles")
    lam = lam[:1]
    unit = full.unit()
    flat = full.times(1 / unit)
    S0 = as_tensor(spectrum).double().to(S.device)
    r = autocorrelation(S, white)
    energy_ = torch.fft.irfft(S0, 2 * L)[:, 0]
    if MODE == "absolute":
        weight = energy_ * unit**2
    elif MODE == "relative":
        weight = 1 / Target.of(flat, r).energy
    weight = weight / weight.max()
    target = Target.of(flat, r * weight[:, None])
    problem = Problem(target, perturbation, damping_range(flat, L), steps)
    layer = replace(flat, poles=lam.expand_as(flat.poles), residues=full.to_continuous().residues, dt=None, log_poles=None, feedthrough=flat.feedthrough*0)
    a = []
    a.append(bt_shared(layer, rank).poles[:1])
    # residues in the units of the criterion
    scaled = layer.times((weight / unit**2).sqrt())
    a.append(bt_shared(scaled, rank).poles[:1])
    E = target.mode_energies().sum(0)
    a.append(lam[:, E.topk(rank).indices])
    best = None
    for x in a:
        p = minimise(problem, x, iterations)
        if VERBOSE: print("   start", evaluate(problem, torch.log(-x.real), x.imag).f.item() / target.energy.sum().item(), "end", p.f.item() / target.energy.sum().item())
        if best is None or p.f < best.f:
            best = p
    ah = best.a * steps[:, None]
    small = replace(flat, poles=torch.exp(ah), log_poles=ah, residues=torch.complex(best.x[:, :rank], -best.x[:, rank : 2 * rank]), feedthrough=best.x[:, -1])
    small = small.times(unit)
    return replace(small, feedthrough=small.feedthrough + full.feedthrough)


MODE = "relative"
VERBOSE = True
