"""Systems with several inputs and outputs: one channel is a case of them, the bound holds,
Hankel singular values are right to the last, and what layers of other people compute is kept.
"""

import importlib
import warnings

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4bt.adapters import LRU, S5, compress_layers, reduce_state
from s4bt.reduction import multi, state_space
from s4bt.reduction.balanced import balanced_truncation, shared_balanced_truncation
from s4bt.reduction.gramians import hankel_singular_values
from s4bt.reduction.layers import reduce_layer
from s4bt.reduction.modal import energy, modal
from s4bt.reduction.multi import (
    multi_balanced_truncation,
    multi_energy,
    multi_hankel_singular_values,
    multi_modal,
    multi_singular_perturbation,
)
from s4bt.reduction.multi_weighted import multi_weighted
from s4bt.reduction.residualisation import singular_perturbation
from s4bt.reduction.state_space import StateSpace
from s4bt.reduction.systems import DiagonalLTI, UnstableSystem

multi_weighted_module = importlib.import_module("s4bt.reduction.multi_weighted")
KINDS = [(real, discrete) for real in (False, True) for discrete in (False, True)]
OMEGA = np.linspace(-3, 3, 40)


def layer(seed, N=10, m=3, p=2, real=False, discrete=False):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    poles = -rng.uniform(0.05, 1, N) + 1j * rng.uniform(0.1, 5, N)
    system = StateSpace(poles, draw(N, m), draw(p, N), rng.normal(size=(p, m)), real=real)
    return system.discretize(0.2) if discrete else system


@pytest.mark.parametrize("real, discrete", KINDS)
def test_one_input_and_output_are_a_case(real, discrete):
    system = layer(0, m=1, p=1, real=real, discrete=discrete)
    one = system.channels().select((0, 0))
    assert torch.allclose(multi_hankel_singular_values(system), hankel_singular_values(one))
    assert torch.allclose(system.hinf_norm(), one.hinf_norm(), rtol=1e-9)
    pairs = (
        (
            lambda s, r: multi_balanced_truncation(s, r)[0],
            lambda s, r: balanced_truncation(s, r)[0],
        ),
        (multi_singular_perturbation, singular_perturbation),
        (multi_modal, modal),
        (multi_energy, energy),
    )
    for many, single in pairs:
        a = many(system, 4).frequency_response(OMEGA)[:, 0, 0]
        b = single(one, 4).frequency_response(OMEGA)
        assert torch.allclose(a, b, atol=1e-9 * float(b.abs().max()))


def test_one_input_and_many_outputs_are_the_shared_truncation():
    rng = np.random.default_rng(1)
    poles = -rng.uniform(0.05, 1, 8) + 1j * rng.uniform(0, 5, 8)
    W = rng.normal(size=(5, 8)) + 1j * rng.normal(size=(5, 8))
    rows = DiagonalLTI(np.tile(poles, (5, 1)), W, real=False)
    one, sigma = shared_balanced_truncation(rows, 3)
    many, values = multi_balanced_truncation(StateSpace(poles, np.ones((8, 1)), W), 3)
    assert torch.allclose(sigma, values)
    a, b = one.frequency_response(OMEGA), many.frequency_response(OMEGA)[..., 0].mT
    assert torch.allclose(a, b, atol=1e-9 * float(a.abs().max()))


@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 9),
    m=st.integers(1, 4),
    p=st.integers(1, 4),
    kind=st.sampled_from(KINDS),
    gain=st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_the_error_lies_between_limit_and_bound(seed, rank, m, p, kind, gain):
    real, discrete = kind
    system = layer(seed, m=m, p=p, real=real, discrete=discrete)
    system = StateSpace(
        system.poles, gain * system.B, system.C, gain * system.D, system.dt, real, system.log_poles
    )
    for small, sigma in (
        multi_balanced_truncation(system, rank),
        (multi_singular_perturbation(system, rank), None),
    ):
        if sigma is None:
            later = system
            if discrete:
                later = StateSpace(
                    system.poles,
                    system.B,
                    system.C * system.poles,
                    None,
                    system.dt,
                    real,
                    system.log_poles,
                )
            sigma = multi_hankel_singular_values(later)
        states = (
            torch.where(small.poles.imag.abs() > 1e-12, 2, 1) if real else 1 + 0 * small.poles.real
        )
        order = int(states.sum())
        error, floor = float((system - small).hinf_norm()), 1e-9 * float(sigma[0])
        assert sigma[order] * (1 - 1e-6) - floor <= error
        assert error <= 2 * float(sigma[order:].sum()) * (1 + 1e-6) + floor


def exact_values(poles, B, C, digits):
    """The roots of the eigenvalues of P Q of a continuous complex system, in high precision."""
    with mpmath.workdps(digits):
        x = [mpmath.mpc(z) for z in poles]
        b = [[mpmath.mpc(z) for z in row] for row in B]
        c = [[mpmath.mpc(z) for z in row] for row in C.T]
        N = len(x)
        P, Q = mpmath.matrix(N, N), mpmath.matrix(N, N)
        for i in range(N):
            for j in range(N):
                P[i, j] = sum(u * mpmath.conj(v) for u, v in zip(b[i], b[j]))
                P[i, j] /= -(x[i] + mpmath.conj(x[j]))
                Q[i, j] = sum(mpmath.conj(u) * v for u, v in zip(c[i], c[j]))
                Q[i, j] /= -(mpmath.conj(x[i]) + x[j])
        values = mpmath.eig(P * Q, left=False, right=False)
        return np.array(sorted((float(mpmath.sqrt(abs(v))) for v in values), reverse=True))


@pytest.mark.parametrize("kind", ["random", "clustered", "scaled", "faint"])
@pytest.mark.parametrize("N, m, p", [(12, 3, 2), (16, 1, 5)])
def test_hankel_singular_values_are_right_to_the_smallest(kind, N, m, p):
    rng = np.random.default_rng(3)
    poles = -rng.uniform(0.05, 1, N) + 1j * rng.uniform(-5, 5, N)
    B = rng.normal(size=(N, m)) + 1j * rng.normal(size=(N, m))
    C = rng.normal(size=(p, N)) + 1j * rng.normal(size=(p, N))
    if kind == "clustered":
        poles = -0.3 + 0.05j * rng.uniform(-1, 1, N) + 0.01 * rng.normal(size=N)
    if kind == "scaled":
        B, C = B * np.logspace(-4, 4, m), C * np.logspace(4, -4, p)[:, None]
    if kind == "faint":
        B, C = B * np.logspace(-9, 0, N)[:, None], C * np.logspace(0, -9, N)
    found = multi_hankel_singular_values(StateSpace(poles, B, C)).numpy()
    assert np.allclose(found, exact_values(poles, B, C, 200), rtol=1e-10, atol=0)


@pytest.mark.parametrize("real", [False, True])
def test_weighted_is_nearer_than_balancing_on_what_the_layer_receives(real):
    L, rng = 32, np.random.default_rng(0)
    system = layer(4, N=12, real=real, discrete=True)
    u = rng.normal(size=(6, L, 3)).cumsum(1)
    U = np.fft.rfft(u, 2 * L, axis=1)
    S = np.einsum("bfi,bfj->fij", U, U.conj()) / 6

    def error(small):
        h = (system - small).impulse_response(4096).numpy()
        y = [[sum(np.convolve(h[:, i, j], x[:, j]) for j in range(3)) for i in range(2)] for x in u]
        return np.square(np.abs(y)).sum()

    pure = {"perturbation": 0.0, "white": 0.0}
    assert error(multi_weighted(system, 4, S, **pure)) < 0.8 * error(
        multi_balanced_truncation(system, 4)[0]
    )


@pytest.mark.parametrize("conjugate_symmetry", [False, True])
@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_an_s5_layer_goes_there_and_back(rule, conjugate_symmetry):
    g = torch.Generator().manual_seed(0)
    state = {
        "Lambda_re": -torch.rand(8, generator=g) - 0.1,
        "Lambda_im": 5 * torch.rand(8, generator=g),
        "B": torch.randn(8, 4, 2, generator=g),
        "C": torch.randn(4, 8, 2, generator=g),
        "D": torch.randn(4, generator=g),
        "log_step": torch.log(0.1 * torch.rand(8, 1, generator=g) + 0.01),
    }
    adapter = S5(state, rule, conjugate_symmetry)
    system = adapter.to_system()
    again = S5(adapter.from_system(system), rule, conjugate_symmetry).to_system()
    h = system.impulse_response(60)
    assert torch.allclose(again.impulse_response(60), h, atol=1e-5 * float(h.abs().max()))
    small = adapter.from_system(multi_balanced_truncation(system, 5)[0])
    assert small["C"].shape == (4, len(small["Lambda_re"]), 2)


def test_a_state_dict_of_something_else_is_refused_with_what_was_found():
    with pytest.raises(ValueError, match="lacks nu_log, theta_log, gamma_log; .* found A, D"):
        LRU({"A": torch.ones(2), "D": torch.ones(2)}).to_system()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"B": np.ones((2, 3))}, r"B \(N, m\), .* got poles \(3,\), B \(2, 3\)"),
        ({"C": np.ones((3, 2))}, r"C \(p, N\)"),
        ({"D": np.ones((3, 3))}, r"D \(p, m\)"),
        ({"domain": "z"}, "domain is 'continuous' or 'discrete'"),
        ({"rank": 4}, "rank must be a whole number from 1 to N = 3"),
        ({"dt": 0.1}, "a continuous layer has no step"),
        ({"method": "hankel"}, "not offered for several inputs and outputs: Glover's"),
    ],
)
def test_wrong_layers_are_refused(change, message):
    given_ = {"poles": -np.ones(3) - 1j * np.arange(3), "B": np.ones((3, 2)), "C": np.ones((2, 3))}
    given_ |= {"domain": "continuous", "rank": 1} | change
    with pytest.raises(ValueError, match=message):
        reduce_layer(**given_)


def test_an_unstable_layer_is_refused():
    with pytest.raises(UnstableSystem, match="1 of 2 are not"):
        reduce_layer(
            np.array([0.5, 1.0]), np.ones((2, 1)), np.ones((1, 2)), domain="discrete", rank=1
        )


def test_arrays_stay_arrays_and_tensors_tensors():
    poles, B, C = np.array([0.5, 0.6j]), np.ones((2, 2)), np.ones((3, 2))
    a = reduce_layer(poles, B, C, domain="discrete", rank=1)
    b = reduce_layer(*map(torch.tensor, (poles, B, C)), domain="discrete", rank=1)
    assert all(isinstance(x, np.ndarray) for x in a)
    assert all(isinstance(x, torch.Tensor) for x in b)
    assert np.allclose(a.poles, b.poles) and np.allclose(a.sigma, b.sigma)


@pytest.mark.parametrize("kind", ["clustered", "faint"])
def test_a_larger_layer_has_all_its_digits(kind):
    """N = 48, m = p = 16; `make bench` goes to 128 states."""
    rng, N, m = np.random.default_rng(5), 48, 16
    poles = -rng.uniform(0.05, 1, N) + 1j * rng.uniform(-5, 5, N)
    B = rng.normal(size=(N, m)) + 1j * rng.normal(size=(N, m))
    C = rng.normal(size=(m, N)) + 1j * rng.normal(size=(m, N))
    if kind == "clustered":
        poles = -0.3 + 0.05j * rng.uniform(-1, 1, N) + 0.01 * rng.normal(size=N)
    else:
        B, C = B * np.logspace(-9, 0, N)[:, None], C * np.logspace(0, -9, N)
    found = multi_hankel_singular_values(StateSpace(poles, B, C)).numpy()
    assert np.allclose(found, hermitian_values(poles, B, C), rtol=1e-8, atol=0)


def hermitian_values(poles, B, C):
    """As `exact_values`, by the Hermitian matrix L^H Q L, which is quicker: 110 digits."""
    with mpmath.workdps(110):
        x, b, c = (mpmath.matrix(part.tolist()) for part in (poles, B, C))
        bb, cc, N = b * b.H, c.H * c, len(poles)
        P, Q = mpmath.matrix(N, N), mpmath.matrix(N, N)
        for i in range(N):
            for j in range(N):
                P[i, j] = -bb[i, j] / (x[i] + mpmath.conj(x[j]))
                Q[i, j] = -cc[i, j] / (mpmath.conj(x[i]) + x[j])
        L = mpmath.cholesky(P)
        values = mpmath.eighe(L.H * Q * L, eigvals_only=True)
        return np.sort([float(mpmath.sqrt(abs(v))) for v in values])[::-1]


@pytest.mark.parametrize("real, discrete", KINDS)
@pytest.mark.parametrize("b, c", [(1e-8, 1.0), (1e8, 1.0), (1.0, 1e-8), (1e150, 1e-150)])
def test_units_of_inputs_and_outputs_change_nothing(b, c, real, discrete):
    system = layer(3, real=real, discrete=discrete)
    other = StateSpace(
        system.poles, b * system.B, c * system.C, None, system.dt, real, system.log_poles
    )
    plain, sigma = multi_balanced_truncation(system, 4)
    scaled, values = multi_balanced_truncation(other, 4)
    assert torch.allclose(values / (b * c), sigma, rtol=1e-12)
    gain = StateSpace(scaled.poles, scaled.B / b, scaled.C / c, None, scaled.dt, real)
    bare = StateSpace(plain.poles, plain.B, plain.C, None, plain.dt, real)
    h, wanted = gain.frequency_response(OMEGA), bare.frequency_response(OMEGA)
    assert torch.allclose(h, wanted, atol=1e-9 * float(wanted.abs().max()))


@pytest.mark.parametrize("real, discrete", KINDS)
def test_the_order_of_modes_inputs_and_outputs_changes_nothing(real, discrete):
    system, rng = layer(6, real=real, discrete=discrete), np.random.default_rng(0)
    n, i, o = (torch.from_numpy(rng.permutation(k)) for k in (10, 3, 2))
    turned = system.take(n)
    turned = StateSpace(
        turned.poles, turned.B[:, i], turned.C[o], None, system.dt, real, turned.log_poles
    )
    (small, sigma), (other, values) = (multi_balanced_truncation(s, 4) for s in (system, turned))
    assert torch.allclose(sigma, values, rtol=1e-12)
    a, b = small.frequency_response(OMEGA) - small.D, other.frequency_response(OMEGA)
    assert torch.allclose(a[:, o][..., i], b, atol=1e-9 * float(a.abs().max()))


def test_norms_are_those_of_responses():
    system = layer(8, m=2, p=3, real=True, discrete=True)
    h = system.impulse_response(4000)
    assert float(system.h2_norm()) == pytest.approx(float(h.square().sum().sqrt()), rel=1e-9)
    omega = np.linspace(-np.pi, np.pi, 20001) / 0.2
    gains = torch.linalg.matrix_norm(system.frequency_response(omega), 2)
    assert float(system.hinf_norm()) == pytest.approx(float(gains.max()), rel=1e-4)
    assert float(system.hinf_norm()) >= float(gains.max()) * (1 - 1e-9)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"spectrum": None}, "needs the cross spectrum"),
        ({"spectrum": torch.ones(9, 2, 2)}, r"m = 3, L >= 2; got \(9, 2, 2\)"),
        ({"spectrum": torch.zeros(9, 3, 3)}, "receives nothing"),
        ({"spectrum": -torch.eye(3).expand(9, 3, 3)}, "negative"),
        ({"white": -1.0}, "white"),
        ({"perturbation": -0.1}, "perturbation"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    system = layer(9, discrete=True)
    options = {"spectrum": torch.eye(3).expand(9, 3, 3)} | change
    with pytest.raises(ValueError, match=message):
        multi_weighted(system, 4, **options)


def test_a_continuous_layer_has_no_weighted_fit():
    with pytest.raises(ValueError, match="is continuous: discretize it"):
        multi_weighted(layer(9), 4, torch.eye(3).expand(9, 3, 3))


@pytest.mark.parametrize("eps, mu", [(0.0, 0.0), (0.02, 0.1)])
def test_weighted_is_never_worse_than_balancing_in_its_own_criterion(eps, mu):
    system, S = layer(10, N=8, discrete=True), torch.eye(3).expand(17, 3, 3)
    options = {"perturbation": eps, "white": mu}
    start, found = (multi_weighted(system, 3, S, n, **options) for n in (0, 60))

    def error(small):
        kernel = (system - small).impulse_response(4000)
        k = torch.arange(4000)[:, None, None]
        return float((kernel.abs().square() * torch.exp(-k / (2 * 16))).sum())

    assert eps or error(found) <= error(start) * (1 + 1e-9)
    one, two = (s.frequency_response(OMEGA) for s in (start, found))
    assert not torch.allclose(one, two)


def test_the_other_versions_names_are_listed():
    state = {"A_real": torch.ones(2), "B": torch.ones(2), "inv_dt": torch.ones(2)}
    with pytest.raises(ValueError, match="looked for nu_log of LRU, .* found A_real, B, inv_dt"):
        reduce_state(state, 1)


def test_a_layer_at_the_boundary_is_refused_with_its_name():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in {
                "nu_log": torch.full((2,), -800.0),
                "theta_log": torch.zeros(2),
                "gamma_log": torch.zeros(2),
                "B": torch.ones(2, 1),
                "C": torch.ones(1, 2),
                "D": torch.ones(1),
            }.items():
                setattr(self, name, torch.nn.Parameter(value))

    with pytest.raises(UnstableSystem, match="layer 1: .* 2 of 2 are not"):
        compress_layers(torch.nn.Sequential(torch.nn.Identity(), Layer()), 1)
    with pytest.raises(ValueError, match="has no layer with the parameters"):
        compress_layers(torch.nn.Linear(2, 2), 1)


@pytest.mark.parametrize("real, discrete", KINDS)
def test_a_well_conditioned_gramian_is_factorised_both_ways_alike(real, discrete, monkeypatch):
    system = layer(11, N=12, m=8, p=9, real=real, discrete=discrete)
    taken, keep = [], multi._well_conditioned

    def counted(*arguments):
        taken.append(keep(*arguments))
        return taken[-1]

    monkeypatch.setattr(multi, "_well_conditioned", counted)
    small, sigma = multi_balanced_truncation(system, 5)
    assert len(taken) == 2 and all(L is not None for L in taken)
    monkeypatch.setattr(multi, "_well_conditioned", lambda *_: None)
    other, values = multi_balanced_truncation(system, 5)
    assert torch.allclose(sigma, values, rtol=1e-11, atol=0)
    a, b = small.frequency_response(OMEGA), other.frequency_response(OMEGA)
    assert torch.allclose(a, b, atol=1e-9 * float(a.abs().max()))


def test_an_ill_conditioned_gramian_is_left_to_the_elimination(monkeypatch):
    system = layer(12, N=12, m=2, p=2)
    found, keep = [], multi._well_conditioned
    monkeypatch.setattr(multi, "_well_conditioned", lambda *a: found.append(keep(*a)) or found[-1])
    multi_hankel_singular_values(system)
    assert found == [None, None]


@pytest.mark.parametrize("gain", [1.0, 1e200, 1e-200])
@pytest.mark.parametrize("real, discrete", KINDS)
def test_norms_are_those_of_the_channels_in_any_unit(real, discrete, gain):
    system = layer(13, m=1, p=2, real=real, discrete=discrete)
    plain, loud = (
        StateSpace(system.poles, system.B, g * system.C, None, system.dt, real, system.log_poles)
        for g in (1.0, gain)
    )
    expected = float(plain.channels().h2_norm().square().sum().sqrt())
    assert float(loud.h2_norm()) / gain == pytest.approx(expected, rel=1e-9)
    assert float(loud.hinf_norm()) / gain == pytest.approx(float(plain.hinf_norm()), rel=1e-9)
    assert float(plain.hinf_norm()) >= float(plain.channels().hinf_norm().max()) * (1 - 1e-9)


def test_a_feedthrough_counts_at_infinity_and_has_no_continuous_h2_norm():
    system = StateSpace([-1.0], [[0.1, 0.0]], [[-0.1], [0.0]], [[5.0, 0.0], [0.0, 1.0]])
    assert float(system.hinf_norm()) == pytest.approx(5.0, rel=1e-12)
    with pytest.raises(ValueError, match="with a feedthrough is infinite"):
        system.h2_norm()


def test_norms_do_not_depend_on_how_much_is_worked_on_at_a_time(monkeypatch):
    system = layer(14)
    whole = system.hinf_norm()
    monkeypatch.setattr(state_space, "CHUNK", 1)
    assert float(system.hinf_norm()) == pytest.approx(float(whole), rel=1e-13)


@pytest.mark.parametrize("real, discrete", KINDS)
@pytest.mark.parametrize("silent", ["B", "C"])
def test_a_silent_layer_stays_silent(silent, real, discrete):
    system = layer(15, real=real, discrete=discrete)
    parts = {"B": system.B, "C": system.C}
    parts[silent] = torch.zeros_like(parts[silent])
    system = StateSpace(
        system.poles, parts["B"], parts["C"], system.D, system.dt, real, system.log_poles
    )
    small, sigma = multi_balanced_truncation(system, 3)
    assert float(sigma.max()) == 0
    assert torch.allclose(small.frequency_response(OMEGA), system.D.expand(40, 2, 3), atol=1e-14)
    if discrete:
        S = torch.eye(3).expand(17, 3, 3)
        assert float((multi_weighted(system, 3, S) - system).h2_norm()) < 1e-12


def test_a_pole_next_to_zero_is_a_pole_like_others():
    poles = np.array([1e-200, 0.5 + 0.3j, 1e-12j, 0.9])
    rng = np.random.default_rng(0)
    system = StateSpace(poles, rng.normal(size=(4, 3)), rng.normal(size=(3, 4)), dt=1.0)
    small, sigma = multi_balanced_truncation(system, 3)
    error = float((system - small).hinf_norm())
    assert float(sigma[3]) * (1 - 1e-9) <= error <= 2 * float(sigma[3]) * (1 + 1e-9)


@pytest.mark.parametrize("real", [False, True])
def test_no_order_is_taken_between_equal_values(real):
    twins = StateSpace([-1.0, -1.0, -3.0], np.eye(3), np.diag([2.0, 2.0, 1e-9]), real=real)
    with pytest.raises(ValueError, match="equal there; ask for another rank"):
        multi_balanced_truncation(twins, 1)
    assert multi_balanced_truncation(twins, 2)[0].modes == 2


@pytest.mark.parametrize("select, norm", [(multi_energy, "h2_norm"), (multi_modal, "hinf_norm")])
@pytest.mark.parametrize("real, discrete", KINDS)
def test_modes_are_chosen_by_their_norms_alone(select, norm, real, discrete):
    system = layer(16, real=real, discrete=discrete)
    logs = system.spectrum.exponents.clone()
    logs[:3] = logs[:3].real.to(logs)  # some real poles
    poles = logs.exp() if discrete else logs
    system = StateSpace(
        poles, system.B, system.C, None, system.dt, real, logs if discrete else None
    )
    alone = [float(getattr(system.take(torch.tensor([n])), norm)()) for n in range(10)]
    if select is multi_energy and real:  # what a pair makes of a sum counts by its modulus
        R = (system.C.T[:, :, None] * system.B[:, None, :]).flatten(1)
        pole = system.poles.imag == 0
        size = torch.where(pole, R.real.norm(dim=1), R.norm(dim=1))
        share = 1 - system.poles.abs() ** 2 if discrete else -2 * system.poles.real
        alone = (size / share.sqrt()).tolist()
    kept = select(system, 4)
    assert set(kept.poles.tolist()) == set(system.poles[np.argsort(alone)[-4:]].tolist())


@pytest.mark.parametrize("real", [False, True])
def test_the_price_of_a_perturbation_is_what_it_costs_in_the_mean(real):
    """Monte Carlo over relative errors of the output weights, input weights and exponents."""
    rng, L, eps = np.random.default_rng(1), 24, 1e-3
    system = layer(17, N=3, real=real, discrete=True)
    u = rng.normal(size=(4, L, 3)).cumsum(1)
    U = np.fft.rfft(u, 2 * L, axis=1)
    R = multi_weighted_module.cross_correlation(
        torch.from_numpy(np.einsum("bfi,bfj->fij", U, U.conj())), 0.0
    )
    problem = multi_weighted_module._Problem(system, R, eps, 0.0)
    own = (system.spectrum.logs, system.B, system.C)

    def off(x):
        z = torch.from_numpy(rng.normal(size=(*x.shape, 2)))
        return x * (1 + eps * torch.view_as_complex(z) / 2**0.5)

    def error(a, b, C):
        small = multi_weighted_module._Modes.of(a, b, R)
        x, v = problem._weights(C), problem._weights(own[2])
        whole = [problem._pair(problem.full, problem.full), problem._pair(problem.full, small)]
        whole += [problem._pair(small, small)]
        if not real:
            whole = [G.conj() for G in whole]
        square = v.mH @ whole[0] @ v - 2 * v.mH @ whole[1] @ x + x.mH @ whole[2] @ x
        return float(square.diagonal().sum().real)

    cost = problem.price(multi_weighted_module._Modes.of(own[0], own[1], R), own[0])
    expected = float((cost * own[2].abs().square().sum(0)).sum())
    seen = np.mean([error(*map(off, own)) for _ in range(2000)])
    assert expected == pytest.approx(seen, rel=0.05)


@pytest.mark.parametrize("real", [False, True])
def test_the_weighted_fit_knows_no_units(real):
    rng, L = np.random.default_rng(2), 24
    system = layer(18, N=8, real=real, discrete=True)
    u = rng.normal(size=(4, L, 3)).cumsum(1)
    unit = torch.tensor([1e-8, 1.0, 1e8], dtype=torch.float64)

    def spectrum(u):
        U = np.fft.rfft(u, 2 * L, axis=1)
        return np.einsum("bfi,bfj->fij", U, U.conj())

    plain = multi_weighted(system, 3, spectrum(u), 10)
    other = StateSpace(
        system.poles, system.B / unit, 1e8 * system.C, None, 0.2, real, system.log_poles
    )
    scaled = multi_weighted(other, 3, spectrum(u * unit.numpy()), 10)
    a = plain.frequency_response(OMEGA) - plain.D
    b = scaled.frequency_response(OMEGA) * unit / 1e8
    assert torch.allclose(a, b, atol=1e-5 * float(a.abs().max()))


def test_white_input_is_added_to_each_input_by_its_own_energy():
    S = torch.diag(torch.tensor([1.0, 4.0])).expand(9, 2, 2)
    plain, more = (multi_weighted_module.cross_correlation(S, mu) for mu in (0.0, 0.5))
    assert torch.allclose(more[0], 1.5 * plain[0]) and torch.equal(more[1:], plain[1:])


def test_results_are_nobody_elses_and_real_layers_have_a_real_feedthrough():
    system = layer(19, discrete=True)
    parts = [x.numpy().copy() for x in (system.poles, system.B, system.C)]
    full = reduce_layer(*parts, np.ones((2, 3)), domain="discrete", rank=10, real=True)
    assert full.D.dtype == np.float64
    full.poles[:] = 0
    full.B[:] = 0
    assert np.abs(parts[0]).min() > 0 and np.abs(parts[1]).min() > 0


def test_an_option_that_a_method_lacks_is_refused():
    part = (-np.ones(3) - 1j * np.arange(3), np.ones((3, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="method 'balanced' has no option spectrum: it has none"):
        reduce_layer(*part, domain="continuous", rank=1, spectrum=1)
    with pytest.raises(ValueError, match="its options are spectrum, iterations, perturbation"):
        reduce_layer(*part, domain="discrete", rank=1, method="weighted", steps=1)


def test_a_layer_that_looks_discrete_is_warned_of_once():
    part = (-0.9 * np.ones(2) - 0.1j * np.arange(2), np.ones((2, 2)), np.ones((2, 2)))
    for method in ("balanced", "modal", "singular-perturbation"):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            reduce_layer(*part, domain="continuous", rank=1, method=method)
        assert len(seen) == 1


@given(damping=st.floats(1e-12, 10), angle=st.floats(0, 100))
def test_bilinear_logarithms_keep_the_damping(damping, angle):
    a = torch.tensor([complex(-damping, angle)], dtype=torch.complex128)
    with mpmath.workdps(40):
        x = mpmath.mpc(-damping, angle)
        exact = mpmath.log((1 + x / 2) / (1 - x / 2))
    found = state_space.bilinear_logarithms(a)[0]
    assert float(found.real) == pytest.approx(float(exact.real), rel=1e-12)
    assert float(found.imag) == pytest.approx(float(exact.imag), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-9, 0.0])
def test_two_modes_that_do_the_same_are_not_taken_for_well_conditioned(gap, real, monkeypatch):
    rng, N = np.random.default_rng(0), 32
    poles = -0.5 - rng.random(N) + 1j * np.linspace(1, 200, N)
    B, C = (rng.normal(size=s) + 1j * rng.normal(size=s) for s in ((N, N), (N, N)))
    for i, j in ((10, 5), (20, 21)):
        poles[i] = poles[j] * (1 + gap)
        B[i], C[:, i] = (x * (1 + gap * rng.normal(size=N)) for x in (B[j], C[:, j]))
    system = StateSpace(poles, B, C, real=real)
    sigma = multi_hankel_singular_values(system)
    monkeypatch.setattr(multi, "_well_conditioned", lambda *_: None)
    exact = multi_hankel_singular_values(system)
    matters = exact > 1e-13 * exact[0]
    assert torch.allclose(sigma[matters], exact[matters], rtol=1e-9, atol=0)


@pytest.mark.parametrize("silent", ["B", "C"])
@pytest.mark.parametrize("loud", [1e-160, 1e160])
def test_a_silent_mode_may_have_any_weight(silent, loud):
    rng = np.random.default_rng(0)
    parts = {"B": rng.normal(size=(3, 2)) + 0j, "C": rng.normal(size=(2, 3)) + 0j}
    other = parts["C" if silent == "B" else "B"]
    if silent == "B":
        parts["B"][0], other[:, 0] = 0, loud
    else:
        parts["C"][:, 0], other[0] = 0, loud
    system = StateSpace([-1 + 1j, -2 + 9j, -3 - 7j], parts["B"], parts["C"])
    rest = system.take(torch.tensor([1, 2]))
    sigma, exact = (multi_hankel_singular_values(s) for s in (system, rest))
    assert torch.allclose(sigma[:2], exact) and float(sigma[2]) < 1e-13 * float(sigma[0])
    assert float(system.h2_norm()) == pytest.approx(float(rest.h2_norm()))
    assert float(system.hinf_norm()) == pytest.approx(float(rest.hinf_norm()))
