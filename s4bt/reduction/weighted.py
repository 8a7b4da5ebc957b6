"""`weighted`: the small kernel with the least output error on the inputs that a layer receives.

L        length of the sequences
K        (H, L)      kernel: the first L samples of the impulse response
S        (H, L + 1)  spectrum of a layer's inputs, the mean of |rfft(u, 2L)|^2 over sequences
E_n      exp(a_n t); a and the fit as in `variable_projection`

    sum_f S(f) |K(f) - K_r(f)|^2   with both kernels zero-padded to 2 L

is the mean energy of (K - K_r) * u over the inputs u. `weighted` minimises it over residues and a
feedthrough, which is linear least squares, and over poles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4bt.reduction.balanced import bt_limited, require_discrete
from s4bt.reduction.checks import not_negative, whole_number
from s4bt.reduction.diagonal import as_tensor, power_of_four
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.variable_projection import (
    Problem,
    best_fit,
    damping_range,
    fitted,
    minimise,
    system_at,
)

ITERATIONS = 12  # Levenberg-Marquardt steps from each start
RTOL = 1e-12
CHUNK = 2**22  # entries of the tables that are worked on at a time


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


def _problem(part: DiagonalLTI, spectrum: Tensor, rounding: float) -> Problem:
    L, root = spectrum.shape[-1] - 1, _weights(spectrum)[:, None]
    t = torch.arange(L, dtype=spectrum.dtype, device=spectrum.device)
    target = part.impulse_response(L)[:, None]
    impulse = torch.zeros_like(target)
    impulse[..., 0] = 1.0

    def table(a: Tensor) -> Tensor:
        E = torch.exp(a[..., None] * t)  # (H, r, L)
        rows = torch.cat([E.real, E.imag, impulse, t * E.real, t * E.imag, target], -2)
        M = torch.view_as_real(torch.fft.rfft(rows, 2 * L) * root).flatten(-2)
        return torch.linalg.qr(M.mT, mode="r").R

    return Problem(table, 1, rounding, damping_range(part, L), RTOL)


def fit_weighted(
    system: DiagonalLTI,
    start: DiagonalLTI,
    spectrum: Tensor,
    iterations: int = ITERATIONS,
    rounding: float = 0.0,
) -> tuple[DiagonalLTI, Tensor]:
    """The system near `start`, with a feedthrough, that has a least mean output error.

    system, start: flat batches of discrete real systems; spectrum: (H, L + 1). What the kernel does
    after L steps does not count. Returns the system and its squared error (H).
    """
    entries = 2 * spectrum.shape[-1] * (4 * start.modes + 2)
    members = torch.arange(len(system.poles), device=spectrum.device)
    points = [
        minimise(
            _problem(system.select(index), spectrum[index], rounding),
            start.select(index).exponents,
            iterations,
        )
        for index in members.split(max(1, CHUNK // entries))
    ]
    a, x, f = (torch.cat([getattr(p, name) for p in points]) for name in ("a", "x", "f"))
    return system_at(system, a, x, x[:, -1]), f


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
    rounding: float = 0.0,
) -> DiagonalLTI:
    """Least mean output error on the inputs whose spectrum is given: sum_f S_h |K_h - K_r|^2.

    spectrum: (H, L + 1), mean of |rfft(u_h, 2 L)|^2 over sequences of a layer's inputs. The reduced
    system has a feedthrough; what the kernel does after L steps does not count. Starts from
    `bt_discrete` and from `bt_limited`, and keeps the best of each channel. rounding: the relative
    error of residues and exponents that the fit allows for.
    Raises ValueError if the spectrum is missing, of the wrong shape, negative, not finite or zero
    in a channel; else as `bt_discrete`.
    """
    require_discrete(system, "weighted fits a discrete kernel")
    iterations = whole_number(iterations, "iterations", 0)
    rounding = not_negative(rounding, "rounding")
    S = checked_spectrum(system, spectrum)
    L = S.shape[-1] - 1

    def fit(full: DiagonalLTI, start: DiagonalLTI) -> DiagonalLTI:
        def improve(index: Tensor, begin: DiagonalLTI) -> DiagonalLTI:
            return fit_weighted(full.select(index), begin, S[index], iterations, rounding)[0]

        def error(small: DiagonalLTI) -> Tensor:
            return output_energy((full - small).impulse_response(L), S)

        return best_fit(improve, [start, bt_limited(full, rank, L)], error)

    return fitted(system, rank, fit)
