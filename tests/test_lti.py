"""DiagonalLTI against dense state-space matrices and quadrature."""

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import random_system
from hypothesis import given
from hypothesis import strategies as st

from s4bt.reduction.peaks import highest_peak
from s4bt.reduction.systems import DiagonalLTI, UnstableSystem

seeds = st.integers(0, 10**6)


def dense(system):
    """A, B, C of the conjugate-closed system, as NumPy arrays."""
    full = system.with_conjugates()
    n = full.modes
    return np.diag(full.poles.numpy()), np.ones((n, 1)), full.residues.numpy()[None]


@given(seeds, st.booleans())
def test_frequency_response_is_c_resolvent_b(seed, real):
    system = random_system(seed, real=real)
    A, B, C = dense(system)
    for omega in (-3.0, 0.0, 0.7, 20.0):
        expected = (C @ np.linalg.solve(1j * omega * np.eye(len(A)) - A, B)).item()
        assert np.isclose(system.frequency_response([omega]).item(), expected)


@given(seeds, st.booleans())
def test_h2_norm_solves_the_lyapunov_equation(seed, real):
    system = random_system(seed, real=real)
    A, B, C = dense(system)
    P = scipy.linalg.solve_continuous_lyapunov(A, -B @ B.T)
    assert np.isclose(system.h2_norm().item() ** 2, (C @ P @ C.conj().T).item().real, rtol=1e-9)


@given(seeds, st.booleans())
def test_hinf_norm_is_the_peak_of_a_fine_scan(seed, real):
    system = random_system(seed, real=real)
    scan = (
        system.frequency_response(torch.linspace(-40, 40, 40001, dtype=torch.float64))
        .abs()
        .max()
        .item()
    )
    assert scan * (1 - 1e-12) <= system.hinf_norm().item() <= scan * (1 + 1e-3)


def test_the_peak_is_found_where_poles_coincide_lie_at_zero_or_the_gain_at_infinity_counts():
    omega = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    poles = torch.full((12,), -1 + 0.9j, dtype=torch.complex128)
    for real in (False, True):
        system = DiagonalLTI(
            poles, torch.full((12,), (1 + 0.5j) / 12, dtype=torch.complex128), real=real
        )
        scan = system.frequency_response(omega).abs().max()
        assert all(abs(system.hinf_norm(points=p) / scan - 1) < 1e-6 for p in (4, 8))
    zero = DiagonalLTI(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 1.0]), dt=1.0).to(
        torch.complex128
    )
    assert abs(zero.hinf_norm() - 3) < 1e-9 and zero.impulse_response(3).tolist() == [
        2.0,
        0.5,
        0.25,
    ]
    direct = DiagonalLTI(
        torch.tensor([-1.0]), torch.tensor([-2.0]), feedthrough=torch.tensor(2.0)
    ).to(torch.complex128)
    assert abs(direct.hinf_norm() - 2) < 1e-12


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("copies", [2, 3])
def test_a_peak_beside_two_samples_that_differ_by_rounding_is_found(side, copies):
    twins = [0.25 * torch.pi]
    while len(twins) < copies:
        twins.append(float(np.nextafter(twins[-1], np.inf)))
    chosen = twins[0] if side > 0 else twins[-1]  # rounding has it highest, away from the peak
    chosen = twins[1] if copies == 3 else chosen

    def gain(omega):
        exact = 1 / (1 + (omega - twins[0] - 0.05 * side).square())
        low = 0.9 * ((omega > 9.5) & (omega.round() % 2 == 0))  # more peaks than are refined
        return exact + low + 1e-14 * (omega == chosen)

    omega = torch.tensor([[0.0, *twins, 1.5, *range(9, 40)]], dtype=torch.float64)
    assert abs(float(highest_peak(gain, omega, zooms=8)) - 1) < 1e-9


@given(seeds)
def test_the_joint_norm_is_that_of_a_fine_scan(seed):
    system = random_system(seed, batch=(3,), real=True)
    system = DiagonalLTI(
        system.poles[:1].expand(3, 8),
        system.residues,
        real=True,
        feedthrough=torch.tensor([0.1, -0.2, 0.0], dtype=torch.float64),
    )
    scan = (
        system.frequency_response(torch.linspace(0, 40, 20_001, dtype=torch.float64))
        .abs()
        .square()
        .sum(0)
        .sqrt()
        .max()
    )
    assert scan * (1 - 1e-9) <= system.hinf_norm(joint=True) <= scan * (1 + 1e-3)


@given(seeds, st.booleans())
def test_discrete_and_back_is_the_same_system(seed, real):
    system = random_system(seed, batch=(2,), real=real)
    there = system.discretize(torch.tensor([0.1, 0.02], dtype=torch.float64))
    back = there.to_continuous()
    assert torch.allclose(back.poles, system.poles, rtol=1e-12) and torch.allclose(
        back.residues, system.residues, rtol=1e-10
    )
    raw = (
        DiagonalLTI(torch.exp(there.log_poles), there.residues, there.dt, real)
        .to_continuous()
        .discretize(there.dt)
    )
    assert torch.allclose(
        raw.impulse_response(9),
        there.impulse_response(9),
        atol=1e-9 * float(system.hinf_norm().max()),
    )


def test_poles_at_zero_and_one_become_continuous_ones():
    system = DiagonalLTI(torch.tensor([0.0, 1.0, -0.5]), torch.tensor([2.0, 3.0, 1.0]), dt=0.1).to(
        torch.complex128
    )
    again = system.to_continuous().discretize(0.1)
    assert torch.allclose(again.impulse_response(5), system.impulse_response(5))


def test_feedthroughs_and_steps_are_checked():
    system, d = (
        random_system(0, batch=(2,), real=True),
        torch.tensor([1.0, 2.0], dtype=torch.float64),
    )
    with pytest.raises(ValueError, match="1 of 2 feedthroughs are not finite"):
        DiagonalLTI(system.poles, system.residues, feedthrough=d / torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="different steps have no difference"):
        system.discretize(0.1) - system.discretize(0.2)
    with pytest.raises(ValueError, match="with a feedthrough is infinite"):
        DiagonalLTI(system.poles, system.residues, feedthrough=d).h2_norm()
    whole = DiagonalLTI(system.poles, system.residues, feedthrough=d).discretize(0.1)
    assert torch.allclose(
        whole.h2_norm() ** 2, whole.impulse_response(4000).square().sum(-1), rtol=1e-6
    )
    assert not whole.to(torch.complex128).feedthrough.is_complex()


@given(seeds, st.floats(1e-4, 1.0))
def test_discretisation_is_a_zero_order_hold(seed, dt):
    system = random_system(seed)
    discrete = system.discretize(dt)
    A, B, C = dense(system)
    M = scipy.linalg.expm(np.block([[A * dt, B * dt], [np.zeros((1, len(A) + 1))]]))
    Ad, Bd = M[:-1, :-1], M[:-1, -1:]
    expected = [(C @ np.linalg.matrix_power(Ad, k) @ Bd).item() for k in range(6)]
    assert np.allclose(discrete.impulse_response(6).numpy(), expected, rtol=1e-8, atol=1e-12)


@given(seeds)
def test_discrete_norms_agree_with_the_impulse_response(seed):
    system = random_system(seed, real=True).discretize(0.3)
    h = system.impulse_response(6000)
    assert np.isclose(system.h2_norm().item(), h.square().sum().sqrt().item(), rtol=1e-6)
    assert np.isclose(
        system.hinf_norm().item(), torch.fft.fft(h, 2**18).abs().max().item(), rtol=1e-4
    )


def test_a_real_system_is_its_conjugate_closed_twin():
    system = random_system(1, real=True)
    h = system.with_conjugates().impulse_response(20)
    assert torch.allclose(h.real, system.impulse_response(20)) and h.imag.abs().max() < 1e-12


def test_unstable_poles_are_counted_and_placed():
    system = random_system(2, batch=(3,))
    poles = system.poles.clone()
    poles[1, 4] = 0.25 + 1j
    with pytest.raises(
        UnstableSystem,
        match=r"1 of 24 are not \(largest real part 0.25; first at channel 1, mode 4",
    ):
        DiagonalLTI(poles, system.residues).h2_norm()


@pytest.mark.parametrize(
    "poles, residues, message",
    [
        (torch.zeros(0), torch.zeros(0), "at least one mode"),
        (torch.tensor([-1.0, float("nan")]), torch.ones(2), "1 of 2 poles are not finite"),
        (torch.tensor([-1.0, -2.0]), torch.ones(3), "do not fit"),
    ],
)
def test_nonsense_is_refused(poles, residues, message):
    with pytest.raises(ValueError, match=message):
        DiagonalLTI(poles, residues)


@pytest.mark.parametrize("dt", [0.0, -1.0])
def test_a_step_must_be_positive(dt):
    with pytest.raises(ValueError, match="steps must be positive"):
        random_system(0).discretize(dt)


@pytest.mark.parametrize("real", [True, False])
def test_the_impulse_response_of_discrete_poles_has_a_gradient(real):
    poles = torch.tensor([0.5 + 0.3j, 0.0, -0.9], dtype=torch.complex128, requires_grad=True)
    residues = torch.tensor([1 + 1j, 2.0, 0.5j], dtype=torch.complex128, requires_grad=True)

    def response(residues):
        return DiagonalLTI(poles.detach(), residues, dt=1.0, real=real).impulse_response(6)

    assert torch.autograd.gradcheck(response, residues)
    shifted = poles.detach() + torch.tensor([0.0, 0.1, 0.0])
    assert torch.autograd.gradcheck(
        lambda p: DiagonalLTI(p, residues.detach(), dt=1.0, real=real).impulse_response(6),
        shifted.requires_grad_(),
    )


@pytest.mark.parametrize("damping", [1e-6, 1e-8, 1e-10, 1e-12])
def test_a_resonance_of_a_slow_mode_has_all_digits(damping):
    angle = np.random.default_rng(0).uniform(0.1, 3, 50)
    log = torch.tensor(-damping + 1j * angle)[:, None]
    one = DiagonalLTI(torch.exp(log), torch.ones(50, 1), dt=1.0, real=False, log_poles=log)
    at = torch.tensor(angle + damping / 3)[:, None]
    offset = (at[:, 0] - torch.tensor(angle)).numpy()
    wanted = torch.tensor(-1 / np.expm1(-damping - 1j * offset))
    assert torch.allclose(one.frequency_response(at)[:, 0], wanted, rtol=1e-12)
