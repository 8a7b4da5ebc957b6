"""How good the reduction of one layer is: limits, bounds and measured errors.

sigma   Hankel singular values of what a method balances: the layer, a channel of it, or its discrete real kernel
limit   the first discarded one: no system of that order has a smaller H-infinity error
bound   twice the sum of the discarded ones
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4bt.balance import error_bounds, order_kept, shared_balanced_truncation
from s4bt.fit import output_energy
from s4bt.gramian import hankel_singular_values
from s4bt.lti import DiagonalLTI
from s4bt.reducers import BOUNDED, CONTINUOUS


def singular_values(system: DiagonalLTI, method: str, dt: Tensor | None = None) -> Tensor:
    """Hankel singular values of what the method balances: (N,) of the whole layer for bt-shared, (H, N) of the channels as complex
    systems for bt-channel, (H, 2N) of the discrete real kernels for the others.
    """
    if method == "bt-shared":
        return shared_balanced_truncation(replace(system, real=False), system.order)[1]
    return hankel_singular_values(replace(system, real=False) if method == "bt-channel" else system.discretize(dt))


@dataclass(frozen=True)
class Reference:
    """What errors of one layer are compared with: it does not depend on the rank. Made by `reference`."""

    method: str
    full: DiagonalLTI                  # what the method balances
    kernel: DiagonalLTI                # what the layer convolves with
    sigma: Tensor
    later: Tensor                      # Hankel singular values of h[1], h[2], …, for methods with a feedthrough
    gain: float
    energy: float


def reference(system: DiagonalLTI, method: str, dt: Tensor) -> Reference:
    """system: the layer, continuous, (H, N); dt: its steps (H,)."""
    kernel, joint = system.discretize(dt), method == "bt-shared"
    full, nan = replace(system, real=False) if method in CONTINUOUS else kernel, float("nan")
    if not bool(system.stable().all()):
        return Reference(method, full, kernel, kernel.residues.real, kernel.residues.real, nan, nan)
    sigma = singular_values(system, method, dt)
    direct = method in ("singular-perturbation", "weighted")
    later = hankel_singular_values(replace(kernel, residues=kernel.residues * kernel.poles)) if direct else sigma
    if method == "singular-perturbation":                            # that is what it balances
        sigma = later
    return Reference(method, full, kernel, sigma, later, float(full.hinf_norm(joint, 4).max()), float(kernel.h2_norm().square().sum()))


def _ratio(part: float, whole: float) -> float:
    """The root of part / whole; a layer that is silent has no error if the new one is silent, too."""
    return 0.0 if part == 0 else math.inf if whole == 0 else math.sqrt(part / whole)


def error_row(against: Reference, reduced: DiagonalLTI, stored: DiagonalLTI, dt: Tensor, spectrum: Tensor | None = None) -> dict[str, float]:
    """How good the reduction of one layer is. Continuous, (H, r): reduced, as the method gave it, whose order counts; stored, as the layer
    holds it, whose errors are measured; dt: steps (H,).

    Of what the method balances (`singular_values`), in units of its gain, each the largest over what is balanced separately:
    sigma_max, limit (the first discarded value, no system of that order does better; with a feedthrough, of h[1], h[2], …), bound
    (2 sum of the discarded values; nan for a method without one), hinf (measured), gain.
    All of them nan if modes that are not stable were kept: such a layer has none of these norms.
    Of the kernels that the layer convolves with, relative, over all channels together: h2_error, and output_error on inputs with that
    spectrum (nan without one).
    """
    small, joint, sigma, nan = stored.discretize(dt), against.method == "bt-shared", against.sigma, float("nan")
    row = dict.fromkeys(("sigma_max", "limit", "bound", "hinf", "gain", "h2_error", "output_error"), nan)
    balanced = lambda s: replace(s, real=False) if against.method in CONTINUOUS else s.discretize(dt)  # noqa: E731
    if math.isfinite(against.gain):
        order = order_kept(balanced(reduced)).clamp(max=sigma.shape[-1])
        order = order.max() if joint else order
        at = lambda s: float(torch.nn.functional.pad(s, (0, 1)).gather(-1, order[..., None]).max())  # noqa: E731
        row |= {"sigma_max": float(sigma.max()), "limit": at(against.later), "gain": against.gain,
                "bound": at(error_bounds(sigma)) if against.method in BOUNDED else nan,
                "hinf": float((against.full - balanced(stored)).hinf_norm(joint, 4).max()),
                "h2_error": _ratio(float((against.kernel - small).h2_norm().square().sum()), against.energy)}
    if spectrum is not None:
        L = spectrum.shape[-1] - 1
        energy = lambda s: float(output_energy(s.impulse_response(L), spectrum).sum())  # noqa: E731
        row["output_error"] = _ratio(energy(against.kernel - small), energy(against.kernel))
    return row
