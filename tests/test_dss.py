"""The DSS layer against the published formula, its own recurrence and its LTI twin."""

import mpmath
import numpy as np
import pytest
import torch

from s4bt.nn.dss import DSS, skew_hippo
from s4bt.reduction.powers import power_sum
from s4bt.reduction.systems import DiagonalLTI, UnstableSystem

KINDS = [("exp", "tied"), ("exp", "per-channel"), ("softmax", "tied"), ("softmax", "per-channel")]


def layer(version="exp", sharing="tied", H=3, N=6, L=40, **options):
    return DSS(H, N, version, sharing, length=L, **options).double()


def formula(dss, L):
    """Proposition 1 of Gupta et al. 2022, written plainly with an (H, N, L) array.

    Softmax as a softmax over positions.
    """
    Lambda, dt = dss.Lambda(), dss.log_dt.exp()[:, None]
    W = torch.view_as_complex(dss.W)
    P = (Lambda * dt)[..., None] * torch.arange(L, dtype=torch.float64)
    if dss.version == "exp":
        return ((W * (torch.exp(Lambda * dt) - 1) / Lambda)[..., None] * torch.exp(P)).sum(1).real
    largest = P.real.amax(-1, keepdim=True)
    weights = torch.exp(P - largest)
    return ((W / Lambda)[..., None] * weights / weights.sum(-1, keepdim=True)).sum(1).real


def test_skew_hippo_is_the_spectrum_of_its_matrix():
    N = 16
    i = np.arange(2 * N)
    M = np.where(i[:, None] > i, np.sqrt((2 * i[:, None] + 1) * (2 * i + 1)), 0)
    expected = np.linalg.eigvals((M - M.T) / 2)
    expected = np.sort(expected.imag[expected.imag > 0])[::-1]
    assert np.allclose(skew_hippo(N).imag, expected) and (skew_hippo(N).real == -0.5).all()


@pytest.mark.parametrize("version, sharing", KINDS)
@pytest.mark.parametrize("length", [40, 37, 1])
def test_the_split_kernel_is_the_formula(version, sharing, length):
    dss = layer(version, sharing, L=length)
    assert torch.allclose(dss.kernel(length), formula(dss, length), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("version, sharing", KINDS)
def test_two_steps_scale_real_and_imaginary_parts_apart(version, sharing):
    dss = layer(version, sharing, separate_dt=True)
    same = layer(version, sharing)
    with torch.no_grad():
        for name in ("Lambda_re", "Lambda_im", "W", "D"):
            getattr(same, name).copy_(getattr(dss, name))
        dss.log_dt[:, 1] = dss.log_dt[:, 0]
        same.log_dt.copy_(dss.log_dt[:, 0])
        assert torch.allclose(dss.kernel(40), same.kernel(40), rtol=1e-12)
        dss.log_dt[:, 1] += 0.3
    h = dss.to_lti().discretize(dss.dt()).impulse_response(40)
    assert torch.allclose(h, dss.kernel(40), rtol=1e-9, atol=1e-12) and not torch.allclose(
        h, same.kernel(40), rtol=1e-2
    )


@pytest.mark.parametrize("version, sharing", KINDS)
@pytest.mark.parametrize("separate_dt", [False, True])
def test_gradients_of_all_parameters_are_those_of_the_formula(version, sharing, separate_dt):
    dss = layer(version, sharing, separate_dt=separate_dt)
    g, parameters = (
        torch.randn(3, 40, dtype=torch.float64),
        [dss.Lambda_re, dss.Lambda_im, dss.W, dss.log_dt],
    )
    if separate_dt:  # two equal steps: the gradients of the one, shared out
        same = layer(version, sharing)
        with torch.no_grad():
            dss.log_dt[:, 1] = dss.log_dt[:, 0]
            for name in ("Lambda_re", "Lambda_im", "W"):
                getattr(same, name).copy_(getattr(dss, name))
            same.log_dt.copy_(dss.log_dt[:, 0])
        plain = formula(same, 40)
        expected = torch.autograd.grad(
            plain, [same.Lambda_re, same.Lambda_im, same.W, same.log_dt], g
        )
    else:
        expected = torch.autograd.grad(formula(dss, 40), parameters, g)
    found = torch.autograd.grad(dss.kernel(40), parameters, g)
    for got, right in zip(found, expected):
        got = got.sum(1) if got.shape != right.shape else got
        assert torch.allclose(got, right, rtol=1e-7, atol=1e-9 * float(right.abs().max()))


def test_growing_softmax_poles_do_not_overflow():
    dss = layer("softmax", L=2000, dt_min=0.1, dt_max=0.1)
    with torch.no_grad():
        dss.Lambda_re[::2] = 6.0
    K = dss.kernel(2000)
    assert torch.isfinite(K).all() and torch.allclose(K, formula(dss, 2000), rtol=1e-7, atol=1e-12)
    with pytest.raises(UnstableSystem, match="9 of 18 poles of this softmax layer"):
        dss.step(torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    "growth, length",
    [(0.02, 1024), (2.4, 993), (2.4, 1024), (0.6, 16384), (3.0, 16384), (40.0, 300)],
)
def test_growing_softmax_poles_are_as_good_in_single_precision(growth, length):
    """Only decaying powers are taken, however far the poles grow."""
    single = DSS(2, 3, "softmax", length=length, dt_min=1.0, dt_max=1.0)
    with torch.no_grad():
        single.Lambda_re.copy_(torch.tensor([growth, -0.01, 0.5 * growth]))
        single.Lambda_im.copy_(torch.tensor([0.1, 1.0, 0.02]))
    double = layer("softmax", H=2, N=3, L=length)
    double.load_state_dict(single.state_dict())
    K, expected = single.kernel(length).double(), formula(double, length)
    assert torch.allclose(double.kernel(length), expected, rtol=1e-7, atol=1e-12)
    assert torch.allclose(K, expected, rtol=1e-2, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("length", [1, 2, 63, 64, 100])
def test_power_sum_has_no_edge(length):
    a, w = (
        torch.randn(2, 5, dtype=torch.complex128) * 0.3 - 0.5,
        torch.randn(2, 5, dtype=torch.complex128),
    )
    direct = (w[..., None] * torch.exp(a[..., None] * torch.arange(length))).sum(1).real
    assert torch.allclose(power_sum(a, w, length), direct, atol=1e-12)


@pytest.mark.parametrize("version, sharing", KINDS)
def test_convolution_equals_recurrence(version, sharing):
    dss = layer(version, sharing)
    u, state, outputs = torch.randn(2, 3, 40, dtype=torch.float64), None, []
    for k in range(40):
        y, state = dss.step(u[..., k], state)
        outputs.append(y)
    assert torch.allclose(dss(u), torch.stack(outputs, -1), atol=1e-9)


def test_mixed_precision_leaves_the_layer_in_single_precision():
    dss, u = DSS(4, 8), torch.randn(2, 4, 50)
    with torch.autocast("cpu", torch.bfloat16):
        y = dss(u)
    assert y.dtype == torch.float32 and torch.equal(y, dss(u))


@pytest.mark.parametrize("version, sharing", KINDS)
def test_the_discretised_lti_has_the_layers_kernel(version, sharing):
    dss = layer(version, sharing)
    h = dss.to_lti().discretize(dss.dt()).impulse_response(40)
    assert torch.allclose(h, dss.kernel(40), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("version, sharing", KINDS)
def test_there_and_back_again_is_the_same_layer(version, sharing):
    dss = DSS(3, 6, version, sharing, length=40)
    with torch.no_grad():
        dss.Lambda_im += 0.1 * torch.randn_like(dss.Lambda_im)
    back = DSS.from_lti(dss.to_lti(), dss)
    assert back.sharing == sharing and torch.allclose(
        back.kernel(40), dss.kernel(40), rtol=1e-4, atol=1e-6
    )


def test_building_from_a_system_leaves_the_random_numbers_alone():
    dss = DSS(3, 6)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    DSS.from_lti(dss.to_lti(), dss)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"version": "softmax"}, "needs `length`"),
        ({"version": "sin"}, "version is"),
        ({"sharing": "shared"}, "version is"),
        ({"dt_min": 0.0}, "0 < dt_min"),
        ({"state": 0}, "state must be a whole number"),
    ],
)
def test_nonsense_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DSS(**{"channels": 2, "state": 3, **options})


def test_a_system_that_does_not_fit_is_refused():
    dss = DSS(3, 6)
    with pytest.raises(ValueError, match="3 channels needs a continuous system"):
        DSS.from_lti(DiagonalLTI(torch.zeros(2, 4) - 1, torch.ones(2, 4)), dss)
    with pytest.raises(UnstableSystem, match="12 of 12"):
        DSS.from_lti(DiagonalLTI(torch.zeros(3, 4) + 1, torch.ones(3, 4)), dss)


def test_expm1_of_pytorch_keeps_its_digits_near_zero():
    """The reason why the layer has none of its own (docs/decisions/0010)."""
    g = torch.Generator().manual_seed(0)
    size = 10.0 ** torch.empty(300, dtype=torch.float64).uniform_(-12, 0.5, generator=g)
    angle = torch.empty(300, dtype=torch.float64).uniform_(-np.pi, np.pi, generator=g)
    z = torch.polar(size, angle)
    for x, digits in ((z.to(torch.complex64), 3e-7), (z, 6e-16)):
        with mpmath.workprec(400):
            exact = [mpmath.expm1(mpmath.mpc(v)) for v in x.tolist()]
            found = [mpmath.mpc(v) for v in torch.expm1(x).tolist()]
            worst = max(abs(a - b) / abs(b) for a, b in zip(found, exact))
        assert worst < digits


@pytest.mark.parametrize("N", [4, 64])
def test_long_kernels_in_single_precision_keep_their_phase(N):
    """The local error does not grow with l, because exponents are in double precision.

    In chunks it grows with their number: their factor is rounded once, and multiplied each time.
    """
    layer, L = DSS(2, N), 2**17
    with torch.no_grad():
        layer.log_dt.fill_(np.log(0.01))
        layer.Lambda_re.fill_(np.log(1e-2))
        exact = layer.to_lti().discretize(layer.dt()).impulse_response(L)
        y = layer(torch.nn.functional.one_hot(torch.tensor(0), L).float().expand(1, 2, L))[0]
    y[:, 0] -= layer.D.detach()
    for kernel, at_start, per_step in ((layer.kernel(L).detach(), 2e-6, 0), (y, 2e-5, 4e-9)):
        for start in (0, 2**14, 2**16, 2**17 - 2**12):
            part = slice(start, start + 2**12)
            size = exact[:, part].abs().amax(-1)
            error = (kernel[:, part] - exact[:, part]).abs().amax(-1)
            assert bool((error < (at_start + per_step * start) * size).all()), (start, error / size)
