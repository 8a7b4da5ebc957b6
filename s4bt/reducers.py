"""Ways to choose a small system, behind one signature: reducer(system, rank, **options) -> DiagonalLTI.

system      a batch of H channels, poles and residues (H, N); for a layer `DSS.to_lti()`, with its steps as the option dt
rank        modes that are kept per channel
sigma       Hankel singular values of what a method balances

REDUCERS maps names to reducers, `reduce` looks one up. A method works on one of two readings of a layer:
continuous  the complex system (Lambda, 1, W_h) of Ezoe & Sato 2024: bt-shared, bt-channel
discrete    the real kernel that the layer convolves with: all the others, which also take any system as it is
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from s4bt.balance import (Balanced, balanced_truncation, check_rank, coordinates, dual_factor, factors, real_coordinates, reduce_flat,
                          shared_balanced_truncation)
from s4bt.fit import best_of, fits, h2_fit, output_energy, weighted_fit
from s4bt.gramian import flattened, promoted
from s4bt.lti import DiagonalLTI


def _complex(system: DiagonalLTI, reducer: Callable, rank: int) -> DiagonalLTI:
    reduced, _ = reducer(replace(system, real=False), rank)
    return replace(reduced, real=system.real)


def bt_shared(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced truncation of (Lambda, 1, W), all rows of W as outputs of one system; the channels keep sharing Lambda.

    P, Q from Lambda P + P Lambda^H = -1 1^H, Lambda^H Q + Q Lambda = -W^H W; the r largest states of sqrt(eig(P Q)).
    First reading of Ezoe & Sato 2024.  Raises as `shared_balanced_truncation`.
    """
    return _complex(system, shared_balanced_truncation, rank)


def bt_channel(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced truncation of every channel's (Lambda, 1, W_h) by itself; each channel gets its own poles.

    As `bt_shared`, with one row W_h in place of W. Second reading of Ezoe & Sato 2024.  Raises as `balanced_truncation`.
    """
    return _complex(system, balanced_truncation, rank)


def bt_discrete(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced truncation of the discrete real kernel h[k] = Re sum_n w_n lambda_n^k, channel by channel.

    A P A^T - P = -b b^T, A^T Q A - Q = -c^T c in real coordinates. |G - G_r| <= 2 sum_{i > k} sigma_i, k the real order kept.
    (discrete balancing: Antoulas 2005, ch. 7)  Raises as `balanced_truncation`, and ValueError for a continuous system.
    """
    _require_discrete(system, "bt-discrete balances a discrete kernel")
    return balanced_truncation(system, rank)[0]


def _require_discrete(system: DiagonalLTI, what: str) -> None:
    if system.dt is None:
        raise ValueError(f"{what}, and the system is continuous: discretize it, or give its steps as the option dt")


def _limited_factor(system: DiagonalLTI, s: Tensor, length: int) -> Tensor:
    """Factor F of sum_{k < length} A^k b b^H A^kH in the coordinates of `coordinates`, by doubling: P_2m = P_m + A^m P_m A^mH."""
    a = torch.log(system.poles) if system.log_poles is None else system.log_poles

    def compressed(F: Tensor) -> Tensor:                             # rows are states, columns may be mixed, by real numbers if real
        X = torch.cat([F.real, F.imag], -2) if system.real else F
        if X.shape[-1] <= X.shape[-2]:
            return F
        R = torch.linalg.qr(X.mH, mode="r").R.mH
        return torch.complex(R[..., :system.order, :], R[..., system.order:, :]) if system.real else R

    F, m = s[..., None], 1
    for bit in bin(length)[3:]:
        F, m = compressed(torch.cat([F, torch.exp(a * m)[..., None] * F], -1)), 2 * m
        if bit == "1":
            F, m = compressed(torch.cat([s[..., None], torch.exp(a)[..., None] * F], -1)), m + 1
    F = real_coordinates(F) if system.real else F
    return torch.nn.functional.pad(F, (0, max(0, F.shape[-2] - F.shape[-1])))


def bt_limited(system: DiagonalLTI, rank: int, length: int | None = None) -> DiagonalLTI:
    """Balanced truncation with what `length` steps can reach, P_L = sum_{k < L} A^k b b^T A^kT, and Q over all time.

    (time-limited balancing: Gawronski & Juang 1990, who limit both Gramians and may lose stability.) Since A^T Q A - Q = -c^T c, the
    projection is orthogonal in a norm in which A is a contraction, so the result is stable.
    Raises as `bt_discrete`, and ValueError without a length of 2 or more.
    """
    _require_discrete(system, "bt-limited sums over steps")
    if not isinstance(length, int) or length < 2:
        raise ValueError(f"bt-limited needs the number of steps, length=2 or more; got {length!r}")

    def block(part: DiagonalLTI, balanced: Balanced) -> Callable:
        s, Lp, _ = factors(part)
        A, b, c, order = coordinates(part, s, _limited_factor(part, s, length), balanced.A.shape[-1], dual_factor(Lp))
        return (lambda i, m: (A[i, :m, :m], b[i, :m], c[i, :m], b.new_zeros(len(i)), None)), order

    return reduce_flat(system, rank, "balancing", rank * (2 if system.real else 1), block)[0]


def _cut(X: Tensor, i: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four blocks of matrices i of a batch, cut at m."""
    return X[i, :m, :m], X[i, :m, m:], X[i, m:, :m], X[i, m:, m:]


def singular_perturbation(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced residualisation: the discarded states follow the kept ones at once, so the gain at zero frequency is exact.

    A11 - A12 A22^-1 A21 and so on for A, or A - I if discrete; the reduced system has a feedthrough. The bound of the truncation holds.
    (Liu & Anderson 1989) A discrete system is balanced as h[0] + (h[1], h[2], …), so that the feedthrough is causal.
    Raises as `balanced_truncation`.
    """
    later = system if system.dt is None else replace(system, residues=system.residues * system.poles, feedthrough=None)

    def block(part: DiagonalLTI, balanced: Balanced) -> Callable:
        dead = torch.arange(balanced.A.shape[-1], device=balanced.A.device) >= balanced.order[:, None]
        A_all = balanced.A - torch.diag_embed(dead.to(balanced.A.dtype))

        def residual(i: Tensor, m: int):
            A11, A12, A21, A22 = _cut(A_all, i, m)
            solved = torch.linalg.solve(A22, torch.cat([A21, balanced.b[i, m:, None]], -1)) if A22.shape[-1] else A22.new_zeros(len(i), 0, m + 1)
            c2 = balanced.c[i, None, m:]
            return (A11 - A12 @ solved[..., :m], balanced.b[i, :m] - (A12 @ solved[..., m:])[..., 0],
                    balanced.c[i, :m] - (c2 @ solved[..., :m])[:, 0], -(c2 @ solved[..., m:])[:, 0, 0], None)
        return residual

    reduced, _ = reduce_flat(later, rank, "balanced residualisation", None, block)
    if system.dt is None:
        return reduced
    residues = torch.where(reduced.residues == 0, 0, reduced.residues / reduced.poles)
    direct = system.residues.sum(-1) - residues.sum(-1)
    direct = (direct.real if system.real else direct) + sum(x for x in (system.feedthrough, reduced.feedthrough) if x is not None)
    return replace(reduced, residues=residues, feedthrough=direct)


def modal(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """The r modes of each channel that contribute most: largest |w_n| / -Re lambda_n, or |w_n| / (1 - |lambda_n|) if discrete.

    That is the H-infinity norm of a mode alone. (modal truncation; for state space layers: Gwak et al. 2024, whose choice of a rank for
    every layer is `s4bt.ranks.last`.)  Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    check_rank(rank, system.order)
    system.require_stable("modal truncation")
    best = modal_scores(system).topk(rank, -1).indices
    pick = lambda x: None if x is None else x.gather(-1, best)  # noqa: E731
    return replace(system, poles=pick(system.poles), residues=pick(system.residues), log_poles=pick(system.log_poles))


def modal_scores(system: DiagonalLTI) -> Tensor:
    """H-infinity norm of every mode alone, (..., N)."""
    damping = -system.poles.real if system.dt is None else (
        1 - system.poles.abs() if system.log_poles is None else -torch.expm1(system.log_poles.real))
    heard = system.residues
    if system.real:                                                  # of a real pole, only the real part of the residue
        heard = torch.where(system.poles.imag == 0, heard.real.to(heard.dtype), heard)
    return heard.abs() / damping


def hankel(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Optimal approximation in the Hankel norm: the largest Hankel singular value of the error is the first discarded one.

    With G balanced and sigma = sigma_{k+1}, A_hat = Gamma^-1 (sigma^2 A11^H + S1 A11 S1 - sigma C1^H u B1^H), Gamma = S1^2 - sigma^2, and
    B_hat, C_hat likewise make an error that is all-pass of size sigma; its k stable poles are kept. States that share sigma are left out of
    all of it. (Glover 1984, theorem 6.3; a discrete
    system goes through s = (z - 1) / (z + 1).) Raises as `balanced_truncation`, and ValueError if sigma_{k+1} = sigma_k for every
    order k that fits.
    """
    def block(part: DiagonalLTI, balanced: Balanced) -> Callable:
        n, discrete = balanced.A.shape[-1], part.dt is not None
        eye = torch.eye(n, dtype=balanced.A.dtype, device=balanced.A.device)
        dead = torch.arange(n, device=eye.device) >= balanced.order[:, None]
        A, b, c = balanced.A - torch.diag_embed(0.5 * dead.to(eye.dtype)), balanced.b, balanced.c
        if discrete:
            turn = torch.linalg.inv(A + 2 * eye)
            A, b, c = turn @ A, 2**0.5 * (turn @ b[..., None])[..., 0], 2**0.5 * (c[..., None, :] @ turn)[..., 0, :]
        sigma = balanced.sigma[:, :n].masked_fill(dead, 0)

        def optimal(i: Tensor, m: int):
            keep = torch.arange(n, device=eye.device) != m           # state m, from 0, is the one that is matched
            exact = balanced.order[i] <= m                           # nothing is discarded
            s0 = torch.where(exact, 0, sigma[i, m]) if m < n else sigma.new_zeros(len(i))
            if m >= n or bool(exact.all()):
                return balanced.A[i, :m, :m], balanced.b[i, :m], balanced.c[i, :m], b.new_zeros(len(i)), None
            A1, b1, c1, S = A[i][:, keep][:, :, keep], b[i][:, keep], c[i][:, keep], sigma[i][:, keep].to(eye.dtype)
            u = torch.where(c[i, m] == 0, 1, -b[i, m] / torch.where(c[i, m] == 0, 1, c[i, m].conj()))
            u = u / u.abs()
            twin = (S.real - s0[:, None]).abs() <= 1e-9 * s0[:, None]                    # sigma may come several times: all are matched
            allowed = (sigma[i, m - 1] > s0 * (1 + 1e-9)) | exact
            gamma = (S**2 - s0[:, None] ** 2).masked_fill(twin | (S == 0) & exact[:, None], 1)
            left = (c1.conj() * (s0 * u)[:, None])[..., None]
            A_hat = (s0[:, None, None] ** 2 * A1.mH + S[..., None] * A1 * S[:, None] - left * b1.conj()[:, None]) / gamma[..., None]
            b_hat, c_hat = (S * b1 + left[..., 0]) / gamma, c1 * S + s0[:, None] * u[:, None] * b1.conj()
            A_hat = A_hat.masked_fill(twin[..., None] | twin[:, None], 0) + torch.diag_embed(twin / 3).to(A_hat.dtype)      # aside, unstable
            b_hat, c_hat = b_hat.masked_fill(twin, 0), c_hat.masked_fill(twin, 0)
            direct = torch.zeros_like(u) if discrete else -s0 * u
            if discrete:
                back = torch.linalg.inv(torch.eye(n - 1, dtype=eye.dtype, device=eye.device) - A_hat)
                A_hat, b_hat, c_hat = 2 * A_hat @ back, 2**0.5 * (back @ b_hat[..., None])[..., 0], 2**0.5 * (c_hat[:, None] @ back)[:, 0]
            return A_hat, b_hat, c_hat, direct, allowed
        return optimal

    return reduce_flat(system, rank, "Hankel-norm approximation", None, block)[0]


def _fitted(system: DiagonalLTI, rank: int, fit: Callable) -> DiagonalLTI:
    """fit(flat batch, a balanced truncation of it as the start) -> reduced flat batch, in the shape of `system`."""
    if rank == system.order:                                         # nothing to discard
        system.require_stable("balancing")
        return promoted(system)
    start, _ = balanced_truncation(replace(system, feedthrough=None), rank)
    with torch.no_grad():
        reduced = fit(flattened(promoted(system)), flattened(start))
    shaped = lambda x, *n: None if x is None else x.reshape((*system.poles.shape[:-1], *n))  # noqa: E731
    direct = [shaped(reduced.feedthrough), system.feedthrough]
    return replace(system, poles=shaped(reduced.poles, rank), residues=shaped(reduced.residues, rank),
                   log_poles=shaped(reduced.log_poles, rank), feedthrough=sum(x for x in direct if x is not None) if direct != [None, None] else None)


def h2(system: DiagonalLTI, rank: int, steps: int = 60, rounding: float = 0.0) -> DiagonalLTI:
    """Locally H2-optimal: least ||G - G_r||_H2 near balanced truncation; see `s4bt.fit.h2_fit`.

    G_r = G and G_r' = G' at the mirror images -conj mu of its poles. (Meier & Luenberger 1967) For diagonal layers: Sakamoto & Sato
    2025.  Raises as `balanced_truncation`.
    """
    def fit(full: DiagonalLTI, start: DiagonalLTI) -> DiagonalLTI:
        one = lambda index, begin: h2_fit(full.select(index), begin, steps, rounding)  # noqa: E731
        return best_of(fits(one, [start]), lambda small: (full - small).h2_norm())
    return _fitted(system, rank, fit)


def weighted(system: DiagonalLTI, rank: int, spectrum: Tensor | None = None, steps: int = 12, rounding: float = 0.0) -> DiagonalLTI:
    """Least mean output error on the inputs whose spectrum is given: sum_f S_h(f) |K_h(f) - K_r(f)|^2; see `s4bt.fit.weighted_fit`.

    spectrum: (H, L + 1), mean of |rfft(u_h, 2 L)|^2 over sequences of a layer's inputs. The reduced system has a feedthrough; what the
    kernel does after L steps does not count. Starts from `bt_discrete` and from `bt_limited`, and keeps the best of each channel.
    Raises ValueError if the spectrum is missing, of the wrong shape, negative, not finite or zero in a channel; else as `bt_discrete`.
    """
    _require_discrete(system, "weighted fits a discrete kernel")
    if spectrum is None:
        raise ValueError("weighted needs the spectrum of the layer's inputs, (H, L + 1): give truncate(..., calibration=) some sequences")
    spectrum, H = torch.as_tensor(spectrum, device=system.poles.device), system.poles.shape[0] if system.poles.dim() == 2 else None
    if not system.real or H is None or spectrum.dim() != 2 or len(spectrum) != H or spectrum.shape[-1] < 3:
        raise ValueError(f"weighted takes real systems (H, N) and a spectrum (H, L + 1), L >= 2; got {tuple(system.poles.shape)} and "
                         f"{tuple(spectrum.shape)}")
    bad = ~(torch.isfinite(spectrum) & (spectrum >= 0)).all(-1) | (spectrum.amax(-1) == 0)
    if bad.any():
        raise ValueError(f"the spectrum of {int(bad.sum())} of {H} channels is zero, negative or not finite; the first is channel "
                         f"{int(bad.nonzero()[0, 0])}")
    spectrum, L = spectrum.to(torch.float64), spectrum.shape[-1] - 1

    def fit(full: DiagonalLTI, start: DiagonalLTI) -> DiagonalLTI:
        one = lambda index, begin: weighted_fit(full.select(index), begin, spectrum[index], steps, rounding)[0]  # noqa: E731
        return best_of(fits(one, [start, bt_limited(full, rank, L)]), lambda small: output_energy((full - small).impulse_response(L), spectrum))
    return _fitted(system, rank, fit)


REDUCERS: dict[str, Callable[..., DiagonalLTI]] = {
    "bt-shared": bt_shared, "bt-channel": bt_channel, "bt-discrete": bt_discrete, "bt-limited": bt_limited,
    "singular-perturbation": singular_perturbation, "modal": modal, "h2": h2, "hankel": hankel, "weighted": weighted}
CONTINUOUS = ("bt-shared", "bt-channel")                             # what they balance is the continuous complex layer
BOUNDED = ("bt-shared", "bt-channel", "bt-discrete", "singular-perturbation")            # error <= 2 sum of the discarded values


def _keep_unstable(system: DiagonalLTI, rank: int, reducer: Callable, options: dict) -> DiagonalLTI:
    """Reduce the stable modes of every channel to what the unstable ones, which stay as they are, leave of the rank."""
    if system.poles.dim() != 2:
        rows = replace(system, poles=system.poles.reshape(-1, system.order), residues=system.residues.reshape(-1, system.order),
                       log_poles=None if system.log_poles is None else system.log_poles.reshape(-1, system.order),
                       feedthrough=None if system.feedthrough is None else system.feedthrough.reshape(-1),
                       dt=system.dt if not isinstance(system.dt, Tensor) else system.dt.expand(system.poles.shape[:-1]).reshape(-1))
        small, shape = _keep_unstable(rows, rank, reducer, options), system.poles.shape[:-1]
        fold = lambda x, *n: None if x is None else x.reshape((*shape, *n))  # noqa: E731
        return replace(system, poles=fold(small.poles, rank), residues=fold(small.residues, rank), log_poles=fold(small.log_poles, rank),
                       feedthrough=fold(small.feedthrough))
    if rank == system.order:
        return system
    stable = system.stable()
    growing = (~stable).sum(-1)
    if int(growing.max()) >= rank:
        raise ValueError(f"{int(growing.max())} of {system.order} poles of channel {int(growing.argmax())} are not stable and would be kept, which "
                         f"leaves no mode of rank {rank} for the rest; ask for a larger one")
    order = (~stable).to(torch.int8).argsort(dim=-1, stable=True)                            # the stable ones in front
    sort = lambda x: None if x is None else x.gather(-1, order)  # noqa: E731
    ordered = replace(system, poles=sort(system.poles), residues=sort(system.residues), log_poles=sort(system.log_poles))
    parts, places = [], []
    for number in growing.unique().tolist():
        index = (growing == number).nonzero()[:, 0]
        part, split = ordered.select(index), system.order - number
        cut = lambda x, where: None if x is None else x[..., where]  # noqa: E731
        piece = lambda where: replace(part, poles=part.poles[..., where], residues=part.residues[..., where],  # noqa: E731
                                      log_poles=cut(part.log_poles, where))
        own = {k: v.to(index.device)[index] if k == "spectrum" else v for k, v in options.items()}
        small = reducer(piece(slice(0, split)), min(rank - number, split), **own)
        pad = rank - number - small.order
        extra = lambda x, y: None if x is None else torch.cat([x, y[..., split:], x[..., :1].expand(len(index), pad)], -1)  # noqa: E731
        w = torch.cat([small.residues, part.residues[..., split:], small.residues.new_zeros(len(index), pad)], -1)
        parts.append(replace(small, poles=extra(small.poles, part.poles), residues=w, log_poles=extra(small.log_poles, part.log_poles)))
        places.append(index)
    back = torch.cat(places).argsort()
    join = lambda xs: None if all(x is None for x in xs) else torch.cat([parts[0].residues.real.new_zeros(len(p)) if x is None else x  # noqa: E731
                                                                         for x, p in zip(xs, places)])[back]
    return replace(system, poles=join([p.poles for p in parts]), residues=join([p.residues for p in parts]),
                   log_poles=join([p.log_poles for p in parts]), feedthrough=join([p.feedthrough for p in parts]))


def reduce(system: DiagonalLTI, rank: int, method: str = "bt-discrete", dt=None, unstable: str = "refuse", **options) -> DiagonalLTI:
    """Reduce every system of the batch to `rank` modes.  method: a key of REDUCERS; options: that reducer's own.

    dt: steps of a continuous system, a number or (H,): methods that work on the discrete kernel discretise it with them (zero-order hold)
    and give a continuous system back; bt-shared and bt-channel do not need them. unstable: "refuse", or "keep": reduce the stable part
    and keep the other modes, which count.
    Raises ValueError for an unknown method, TypeError for an option that the method does not have, and whatever the reducer raises.
    """
    if method not in REDUCERS:
        raise ValueError(f"unknown reducer {method!r}; known: {', '.join(REDUCERS)}")
    if unstable not in ("refuse", "keep"):
        raise ValueError(f"unstable is 'refuse' or 'keep', not {unstable!r}")
    check_rank(rank, system.order)
    if dt is not None and system.dt is not None:
        raise ValueError(f"the system is discrete, with step {system.dt}; dt is for continuous ones")
    if dt is not None and method not in CONTINUOUS:
        return reduce(promoted(system).discretize(dt), rank, method, None, unstable, **options).to_continuous()
    if unstable == "keep" and not bool(system.stable().all()):
        return _keep_unstable(promoted(system), rank, REDUCERS[method], options)
    return REDUCERS[method](system, rank, **options)
