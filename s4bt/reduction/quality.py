"""How good the reduction of one layer is: limits, bounds and measured errors.

sigma   Hankel singular values of what a method balances
limit   the first discarded one: no system of that order has a smaller H-infinity error
bound   twice the sum of the discarded ones
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4bt.reduction.balanced import error_bounds, order_kept, shared_balanced_truncation
from s4bt.reduction.gramians import hankel_singular_values
from s4bt.reduction.methods import Method
from s4bt.reduction.residualisation import delayed
from s4bt.reduction.systems import DiagonalLTI

NAN = float("nan")
AT_ONCE = 64  # sequences that pass through a kernel together
# What a layer receives: sequences (B, H, L), and their lengths (B) or None.
Received = tuple[Tensor, Tensor | None]
STEPS = 256  # of a kernel that are looked at where no sequences say how long they are
SAMPLES = 4  # samples on each side of a pole for H-infinity norms of whole layers


def balanced_system(system: DiagonalLTI, method: Method, dt: Tensor) -> DiagonalLTI:
    """What the method balances, of a continuous layer (H, N) with steps dt (H,)."""
    return replace(system, real=False) if method.continuous else system.discretize(dt)


def singular_values(system: DiagonalLTI, method: Method, dt: Tensor) -> Tensor:
    """Hankel singular values of what the method balances.

    (N,) of the whole layer, (H, N) of its channels as complex systems, or (H, 2N) of their discrete
    real kernels, by the method's `balances`.
    """
    full = balanced_system(system, method, dt)
    if method.joint:
        return shared_balanced_truncation(full, system.modes)[1]
    return hankel_singular_values(delayed(full) if method.delayed else full)


@dataclass(frozen=True)
class Reference:
    """What errors of one layer are compared with: it does not depend on the rank.

    Made by `reference`.

    full: what the method balances; kernel: what the layer convolves with; sigma: Hankel singular
    values of full; later: of h[1], h[2], …, for methods with a feedthrough; gain: H-infinity norm
    of full; energy: squared H2 norm of kernel. Gain and energy are nan if a pole is not stable.
    """

    method: Method
    full: DiagonalLTI
    kernel: DiagonalLTI
    sigma: Tensor
    later: Tensor
    gain: float
    energy: float


def reference(system: DiagonalLTI, method: Method, dt: Tensor) -> Reference:
    """system: the layer, continuous, (H, N); dt: its steps (H,)."""
    kernel, full = system.discretize(dt), balanced_system(system, method, dt)
    if not bool(system.stable().all()):
        unknown = kernel.residues.real
        return Reference(method, full, kernel, unknown, unknown, NAN, NAN)
    sigma = singular_values(system, method, dt)
    later = sigma
    if method.feedthrough and not method.delayed:
        later = hankel_singular_values(delayed(kernel))
    gain = float(full.hinf_norm(method.joint, SAMPLES).max())
    energy = float(kernel.h2_norm().square().sum())
    return Reference(method, full, kernel, sigma, later, gain, energy)


def _ratio(part: float, whole: float) -> float:
    """The root of part / whole; a silent layer has no error if the new one is silent, too."""
    if part == 0:
        return 0.0
    return math.inf if whole == 0 else math.sqrt(part / whole)


def _largest_at(values: Tensor, order: Tensor) -> float:
    """The largest of values (..., n) at the places `order`, 0 behind the last."""
    return float(torch.nn.functional.pad(values, (0, 1)).gather(-1, order[..., None]).max())


def _error_of_gain(
    against: Reference, reduced: DiagonalLTI, stored: DiagonalLTI, dt: Tensor
) -> dict[str, float]:
    """Limit, bound and measured H-infinity error of what the method balances, and H2 error."""
    method, sigma = against.method, against.sigma
    order = order_kept(balanced_system(reduced, method, dt)).clamp(max=sigma.shape[-1])
    order = order.max() if method.joint else order
    error = against.full - balanced_system(stored, method, dt)
    h2_error = (against.kernel - stored.discretize(dt)).h2_norm().square().sum()
    return {
        "sigma_max": float(sigma.max()),
        "limit": _largest_at(against.later, order),
        "gain": against.gain,
        "bound": _largest_at(error_bounds(sigma), order) if method.bounded else NAN,
        "hinf": float(error.hinf_norm(method.joint, SAMPLES).max()),
        "h2_error": _ratio(float(h2_error), against.energy),
    }


def energy_that_counts(kernel: Tensor, u: Tensor, lengths: Tensor | None = None) -> float:
    """Energy of kernel * u over all sequences and channels, in samples 0 .. length - 1.

    kernel (H, L), u (B, H, L), lengths (B): what a layer puts out behind the end of a sequence is
    never used.
    """
    L, total = kernel.shape[-1], 0.0
    response = torch.fft.rfft(kernel, 2 * L)
    inside = torch.arange(L, device=u.device)
    for start in range(0, len(u), AT_ONCE):
        part = u[start : start + AT_ONCE].to(kernel.dtype)
        y = torch.fft.irfft(torch.fft.rfft(part, 2 * L) * response, 2 * L)[..., :L]
        if lengths is not None:
            y = y * (inside < lengths[start : start + AT_ONCE, None])[:, None]
        total += float(y.square().sum())
    return total


def cancellation(kernel: DiagonalLTI, length: int) -> Tensor:
    """How far the terms of a kernel exceed it, in every channel: sum |w_n| / max |h[k]|.

    k = 0 .. length - 1.

    About 1 where nothing cancels; more, too, where one term is large only while its phase hides it.
    A relative error eps of the terms may become that many eps.
    """
    terms = kernel.residues.abs().sum(-1)
    h = replace(kernel, feedthrough=None).impulse_response(length).abs().amax(-1)
    return torch.where(terms > 0, terms / h, 1.0)


def error_row(
    against: Reference,
    reduced: DiagonalLTI,
    stored: DiagonalLTI,
    dt: Tensor,
    received: Received | None = None,
) -> dict[str, float]:
    """How good the reduction of one layer is.

    Continuous, (H, r): reduced, as the method gave it, whose order counts; stored, as the layer
    holds it, whose errors are measured; dt: steps (H,).

    Of what the method balances (`singular_values`), in units of its gain, each the largest over
    what is balanced separately: sigma_max, limit (the first discarded value, no system of that
    order does better; with a feedthrough, of h[1], h[2], …), bound (2 sum of those discarded;
    nan for a method without one), hinf (measured), gain. All of them are nan if modes that are not
    stable were kept: such a layer has none of these norms.
    Of the kernels that the layer convolves with, relative, over all channels together: h2_error,
    and output_error on the sequences that the layer received, in samples that count (nan without).
    cancellation: the largest over the channels, over the length of those sequences.
    """
    names = ("sigma_max", "limit", "bound", "hinf", "gain", "h2_error", "output_error")
    row = dict.fromkeys(names, NAN)
    length = STEPS if received is None else received[0].shape[-1]
    row["cancellation"] = float(cancellation(stored.discretize(dt), length).max())
    if math.isfinite(against.gain):
        row |= _error_of_gain(against, reduced, stored, dt)
    if received is not None:
        L = received[0].shape[-1]
        error = (against.kernel - stored.discretize(dt)).impulse_response(L)
        whole = against.kernel.impulse_response(L)
        parts = energy_that_counts(error, *received), energy_that_counts(whole, *received)
        row["output_error"] = _ratio(*parts)
    return row
