"""Gramian factors, Hankel singular values and truncation against residuals,
high precision and the error bound.
"""

import json
from dataclasses import replace
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from conftest import random_system
from hypothesis import given
from hypothesis import strategies as st

from s4bt.reduction.balanced import (
    balanced_truncation,
    error_bound,
    order_kept,
    shared_balanced_truncation,
)
from s4bt.reduction.gramians import PrecisionWarning, cauchy_cholesky, hankel_singular_values
from s4bt.reduction.systems import DiagonalLTI

seeds = st.integers(0, 10**6)
DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "hsv.json").read_text()) + json.loads(
    (DATA / "reference.json").read_text()
)


def precise_values(system, digits=200):
    """Hankel singular values by eigenvalues of P Q in high precision: another method, another
    arithmetic.

    A discrete system is taken as its log poles define it, which is more than its poles in float64
    say.
    """
    with mpmath.workdps(digits):

        def exact(values):
            return [mpmath.mpc(z.real, z.imag) for z in values.tolist()]

        a, w = (
            exact(system.poles if system.dt is None else system.log_poles),
            exact(system.residues),
        )
        gap = (lambda x, y: -(x + y)) if system.dt is None else (lambda x, y: -mpmath.expm1(x + y))
        P, Q = mpmath.matrix(len(a), len(a)), mpmath.matrix(len(a), len(a))
        for i, x in enumerate(a):
            for j, y in enumerate(a):
                P[i, j] = 1 / gap(x, mpmath.conj(y))
                Q[i, j] = mpmath.conj(w[i]) * w[j] / gap(mpmath.conj(x), y)
        values = mpmath.eig(P * Q, left=False, right=False)
        return np.array(sorted((float(mpmath.sqrt(abs(v))) for v in values), reverse=True))


@given(seeds, st.integers(1, 3))
def test_the_factor_solves_the_lyapunov_equation(seed, inputs):
    system = random_system(seed)
    g = torch.tensor(np.random.default_rng(seed).normal(size=(8, inputs, 2))).contiguous()
    g = torch.view_as_complex(g)
    L = cauchy_cholesky(system, g)
    P, A = L @ L.mH, torch.diag(system.poles)
    residual = A @ P + P @ A.mH + g @ g.mH
    assert residual.abs().max() < 1e-12 * (A.abs().max() * P.abs().max())


@given(seeds)
def test_the_discrete_factor_solves_the_stein_equation(seed):
    system = random_system(seed).discretize(0.2)
    g = system.residues[:, None]
    for known in (system, replace(system, log_poles=None)):
        L = cauchy_cholesky(known, g)
        P, A = L @ L.mH, torch.diag(system.poles)
        assert (A @ P @ A.mH - P + g @ g.mH).abs().max() < 1e-11 * P.abs().max()


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("dt", [None, 1e-3, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_value_is_right_to_ten_digits(seed, dt, clustered):
    system = random_system(seed, clustered=clustered)
    system = system if dt is None else system.discretize(dt)
    values = hankel_singular_values(system).numpy()
    assert np.abs(values / precise_values(system) - 1).max() < 1e-10


def from_json(case):
    def pair(z):
        return torch.tensor([complex(*x) for x in z], dtype=torch.complex128)

    poles, residues = pair(case["poles"]), pair(case["residues"])
    if case.get("discrete"):
        return DiagonalLTI(torch.exp(poles), residues, dt=1.0, real=True, log_poles=poles)
    return DiagonalLTI(poles, residues, real=False)


@pytest.mark.parametrize("case", REFERENCE, ids=[c["name"] for c in REFERENCE])
def test_values_agree_with_arithmetic_of_many_digits(case):
    """Up to 256 modes; the smallest of `clustered-64` is 3e-283 of the largest.

    Made by data/make_reference.py.
    """
    values = hankel_singular_values(from_json(case)).numpy()
    assert np.abs(values / np.array(case["hsv"]) - 1).max() < 1e-10


@pytest.mark.parametrize("dt", [None, 0.01])
@given(seed=seeds, order=st.sampled_from([3, 40, 130]), clustered=st.booleans())
def test_the_product_of_all_values_is_a_cauchy_determinant(dt, seed, order, clustered):
    """det P = prod_{i<j} |l_i - l_j|^2 / prod_{i,j} D_ij, in logarithms: every value counts,
    however small.
    """
    system = random_system(
        seed, order=min(order, 24) if clustered else order, clustered=clustered
    )  # more are below 1e-308
    system = system if dt is None else system.discretize(dt)
    a = system.poles if dt is None else system.log_poles
    D = -(a[:, None] + a.conj()) if dt is None else -torch.expm1(a[:, None] + a.conj())
    gap = a[:, None] - a if dt is None else torch.exp(a) * torch.expm1(a[:, None] - a)
    gap.fill_diagonal_(1)
    expected = gap.abs().log().sum() - D.abs().log().sum() + system.residues.abs().log().sum()
    assert abs(hankel_singular_values(system).log().sum() - expected) < 1e-8


@pytest.mark.parametrize("real, dt", [(False, None), (True, None), (True, 0.1)])
def test_the_gradient_of_the_sum_is_that_of_finite_differences(real, dt):
    system = random_system(1, order=5, batch=(2,), real=real)
    silent = system.residues.clone()
    silent[0, 2] = 0

    def total(re, im, w):
        one = DiagonalLTI(torch.complex(re, im), w, real=real)
        return hankel_singular_values(one if dt is None else one.discretize(dt)).sum()

    parts = [
        x.clone().requires_grad_() for x in (system.poles.real, system.poles.imag, system.residues)
    ]
    assert torch.autograd.gradcheck(total, parts)
    w = silent.requires_grad_()
    total(*parts[:2], w).backward()
    assert torch.isfinite(torch.view_as_real(w.grad)).all()


def test_single_precision_is_promoted_and_said():
    system = random_system(0)
    with pytest.warns(PrecisionWarning, match="complex64 was promoted"):
        values = hankel_singular_values(system.to(torch.complex64))
    assert values.dtype == torch.float64 and torch.allclose(
        values, hankel_singular_values(system), rtol=1e-4
    )


@given(seeds)
def test_values_are_those_of_the_hankel_matrix(seed):
    system = random_system(seed, order=4, real=True).discretize(0.5)
    system = replace(system, poles=system.poles * 0.8, log_poles=None)
    h = system.impulse_response(401).numpy()
    hankel = np.array([h[i : i + 200] for i in range(200)])
    expected = np.linalg.svd(hankel, compute_uv=False)[:8]
    assert np.allclose(
        hankel_singular_values(system).numpy(), expected, rtol=1e-8, atol=1e-12 * expected[0]
    )


@given(seeds, st.integers(1, 8), st.booleans(), st.booleans(), st.booleans())
def test_the_error_lies_between_the_limit_and_the_bound(seed, rank, real, discrete, clustered):
    system = random_system(seed, real=real, clustered=clustered)
    system = system.discretize(0.1) if discrete else system
    reduced, sigma = balanced_truncation(system, rank)
    order = int(order_kept(reduced))
    error = (system - reduced).hinf_norm().item()
    gain, floor = sigma[0].item(), 1e-10 * sigma[0].item()
    tail = error_bound(sigma, order).item()
    limit = sigma[order].item() if order < len(sigma) else 0.0
    assert limit * (1 - 1e-6) - floor <= error <= tail * (1 + 1e-6) + floor
    assert reduced.modes == rank and gain > 0


@given(seeds, st.booleans(), st.booleans())
def test_truncating_nothing_changes_nothing(seed, real, discrete):
    system = random_system(seed, real=real)
    system = system.discretize(0.1) if discrete else system
    reduced, _ = balanced_truncation(system, system.modes)
    h, k = system.impulse_response(50), reduced.impulse_response(50)
    assert (h - k).norm() < 1e-9 * h.norm()


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_real_poles_cost_one_mode_each(rank):
    poles = torch.tensor(
        [-0.1 + 0j, -1.0 + 0j, -10.0 + 0j, -0.3 + 4j, -0.2 + 9j], dtype=torch.complex128
    )
    system = DiagonalLTI(
        poles, torch.tensor([1.0, -2.0, 3.0, 0.5 + 1j, 1j], dtype=torch.complex128), real=True
    )
    reduced, sigma = balanced_truncation(system, rank)
    assert reduced.modes == rank
    order = int(order_kept(reduced))
    assert (
        (system - reduced).hinf_norm() <= error_bound(sigma, min(order, 10)) * (1 + 1e-6) + 1e-9
        if order < 10
        else True
    )


@given(seeds, st.sampled_from([1e-8, 1e8]), st.sampled_from([1e-3, 1e3]))
def test_units_do_not_matter(seed, gain, time):
    system = random_system(seed)
    reduced, sigma = balanced_truncation(system, 3)
    other, tau = balanced_truncation(
        replace(system, poles=system.poles * time, residues=system.residues * gain * time), 3
    )
    assert torch.allclose(tau, sigma * gain, rtol=1e-9)

    def key(z):
        return (z.real.item(), z.imag.item())

    assert np.allclose(
        sorted(reduced.poles * time, key=key), sorted(other.poles, key=key), rtol=1e-6
    )


@given(seeds, st.integers(1, 7))
def test_shared_truncation_keeps_its_bound_over_all_outputs(seed, rank):
    rng = np.random.default_rng(seed)
    poles = random_system(seed).poles
    W = torch.tensor(rng.normal(size=(5, 8)) + 1j * rng.normal(size=(5, 8)))
    system = DiagonalLTI(poles.expand(5, 8), W, real=False)
    reduced, sigma = shared_balanced_truncation(system, rank)
    assert torch.equal(reduced.poles, reduced.poles[:1].expand(5, rank))
    error = (system - reduced).hinf_norm(joint=True).item()
    assert sigma[rank].item() * (1 - 1e-6) <= error <= error_bound(sigma, rank).item() * (1 + 1e-6)


@given(seeds)
def test_one_output_is_a_special_case_of_many(seed):
    system = random_system(seed, batch=(1,))
    for rank in (1, 4):
        shared, sigma = shared_balanced_truncation(system, rank)
        single, tau = balanced_truncation(system, rank)
        assert torch.allclose(sigma, tau[0], rtol=1e-8)
        assert torch.allclose(
            shared.frequency_response([0.3]), single.frequency_response([0.3]), rtol=1e-6
        )


def test_the_shared_gramian_is_that_of_all_rows_together():
    rng = np.random.default_rng(0)
    poles, W = (
        random_system(0).poles,
        torch.tensor(rng.normal(size=(3, 8)) + 1j * rng.normal(size=(3, 8))),
    )
    _, sigma = shared_balanced_truncation(DiagonalLTI(poles.expand(3, 8), W, real=False), 2)
    A, B, C = np.diag(poles.numpy()), np.ones((8, 1)), W.numpy()
    from scipy.linalg import solve_continuous_lyapunov as lyap

    P, Q = lyap(A, -B @ B.T), lyap(A.conj().T, -C.conj().T @ C)
    expected = np.sort(np.sqrt(np.linalg.eigvals(P @ Q).real))[::-1]
    assert np.allclose(sigma.numpy(), expected, rtol=1e-6)


def test_a_batch_is_reduced_as_its_members_are():
    batch = random_system(3, batch=(2, 3))
    reduced, sigma = balanced_truncation(batch, 4)
    one, tau = balanced_truncation(
        DiagonalLTI(batch.poles[1, 2], batch.residues[1, 2], real=False), 4
    )
    assert torch.allclose(sigma[1, 2], tau, rtol=1e-12)
    assert torch.allclose(reduced.impulse_response(5)[1, 2], one.impulse_response(5), rtol=1e-9)


def test_silent_and_equal_modes_are_not_reached():
    poles = torch.tensor([-1.0, -1.0, -2.0, -3.0], dtype=torch.complex128)
    residues = torch.tensor([1.0, 2.0, 0.0, 1.0], dtype=torch.complex128)
    system = DiagonalLTI(poles, residues, real=False)
    sigma = hankel_singular_values(system)
    assert (sigma[2:] <= 1e-15 * sigma[0]).all()
    reduced, _ = balanced_truncation(system, 4)
    assert torch.allclose(system.impulse_response(9), reduced.impulse_response(9))


@pytest.mark.parametrize("rank", [0, -1, 9, 2.0, True])
def test_a_rank_outside_the_order_is_refused(rank):
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to N = 8"):
        balanced_truncation(random_system(0), rank)
