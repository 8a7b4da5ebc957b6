"""Layers of other people, written here as they are published: their parameters go to systems and
back, and whole models of them are reduced.
"""

import math

import pytest
import torch
from torch import nn

from s4bt.adapters import LRU, S4D, adapter_of, compress_layers, received, reduce_state
from s4bt.reduction.state_space import StateSpace

H, N, L = 3, 8, 40


class Recurrent(nn.Module):
    """y = Re(C x) + D u, x[k] = lambda x[k-1] + B u[k]; (B, L, H)."""

    def recur(self, poles, B, C, D, u):
        x, found = torch.zeros(len(u), len(poles), dtype=torch.complex64), []
        for k in range(u.shape[1]):
            x = poles * x + u[:, k].cfloat() @ B.mT
            found.append((x @ C.mT).real + D * u[:, k])
        return torch.stack(found, 1)


class LRULayer(Recurrent):
    def __init__(self):
        super().__init__()
        self.nu_log = nn.Parameter(torch.log(torch.rand(N) + 0.05))
        self.theta_log = nn.Parameter(torch.log(3 * torch.rand(N)))
        self.gamma_log = nn.Parameter(torch.randn(N))
        self.B = nn.Parameter(torch.randn(N, H, dtype=torch.complex64))
        self.C = nn.Parameter(torch.randn(H, N, dtype=torch.complex64))
        self.D = nn.Parameter(torch.randn(H))

    def forward(self, u):
        poles = torch.exp(torch.complex(-self.nu_log.exp(), self.theta_log.exp()))
        return self.recur(poles, self.B * self.gamma_log.exp()[:, None], self.C, self.D, u)


class S5Layer(Recurrent):
    def __init__(self, rule="zoh", conjugate_symmetry=True):
        super().__init__()
        self.rule, self.twice = rule, conjugate_symmetry
        self.Lambda_re = nn.Parameter(-torch.rand(N) - 0.1)
        self.Lambda_im = nn.Parameter(5 * torch.rand(N))
        self.B, self.C = nn.Parameter(torch.randn(N, H, 2)), nn.Parameter(torch.randn(H, N, 2))
        self.D = nn.Parameter(torch.randn(H))
        self.log_step = nn.Parameter(torch.log(0.2 * torch.rand(N, 1) + 0.02))

    def forward(self, u):
        a, dt = torch.complex(self.Lambda_re, self.Lambda_im), self.log_step.exp()[:, 0]
        if self.rule == "zoh":
            poles, gain = torch.exp(a * dt), (torch.exp(a * dt) - 1) / a
        else:
            poles, gain = (1 + a * dt / 2) / (1 - a * dt / 2), dt / (1 - a * dt / 2)
        B, C = torch.view_as_complex(self.B), torch.view_as_complex(self.C)
        return self.recur(poles, gain[:, None] * B, (2 if self.twice else 1) * C, self.D, u)


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_A_real = nn.Parameter(torch.log(torch.rand(H, N) + 0.2))
        self.A_imag = nn.Parameter(5 * torch.rand(H, N))
        self.C = nn.Parameter(torch.randn(1, H, N, 2))
        # without training, as where its learning rate is zero
        self.register_buffer("log_dt", torch.log(0.2 * torch.rand(H) + 0.02))


class S4DLayer(nn.Module):
    def __init__(self, rule="zoh", transposed=False):
        super().__init__()
        self.kernel, self.D = Kernel(), nn.Parameter(torch.randn(H))
        self.rule, self.transposed = rule, transposed

    def forward(self, u):
        u = u if self.transposed else u.mT
        k, steps = self.kernel, torch.arange(u.shape[-1])
        A, dt = torch.complex(-k.log_A_real.exp(), k.A_imag), k.log_dt.exp()[:, None]
        C = torch.view_as_complex(k.C)[0]
        if self.rule == "zoh":
            C, a = C * (torch.exp(dt * A) - 1) / A, dt * A
        else:
            C, a = C * dt / (1 - dt * A / 2), torch.log((1 + dt * A / 2) / (1 - dt * A / 2))
        kernel = 2 * (C[..., None] * torch.exp(a[..., None] * steps)).sum(1).real
        size = 2 * u.shape[-1]
        y = torch.fft.irfft(torch.fft.rfft(u, size) * torch.fft.rfft(kernel, size), size)
        y = y[..., : u.shape[-1]] + self.D[:, None] * u
        return y if self.transposed else y.mT


LAYERS = {
    "LRU": (LRULayer, {}),
    "S5": (S5Layer, {}),
    "S5, bilinear, all states": (
        lambda: S5Layer("bilinear", False),
        {"rule": "bilinear", "conjugate_symmetry": False},
    ),
    "S4D": (S4DLayer, {}),
    "S4D, bilinear": (lambda: S4DLayer("bilinear"), {"rule": "bilinear"}),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    make, facts = LAYERS[request.param]
    return make(), facts


def close(a, b, tolerance=1e-5):
    return bool((a - b).norm() < tolerance * b.norm())


def test_what_a_layer_computes_is_kept_at_full_rank_and_nearly_at_half(layer):
    layer, facts = layer
    u = torch.randn(2, L, H)
    same, names = compress_layers(layer, N, **facts)
    assert names == [""] and close(same(u), layer(u))
    small, _ = compress_layers(layer, N // 2, **facts)
    lost = (small(u) - layer(u)).norm() / layer(u).norm()
    assert 1e-4 < lost < 0.5
    # the fit counts what comes after the sequences, too
    u = torch.nn.functional.pad(u, (0, 0, 0, 10 * L))
    pure = {"perturbation": 0.0, "white": 0.0}
    fitted, _ = compress_layers(layer, N // 2, u[:, :L], method="weighted", **pure, **facts)
    assert (fitted(u) - layer(u)).norm() < (small(u) - layer(u)).norm()
    # the layer itself is as it was
    assert compress_layers(layer, N, **facts)[0] is not layer and close(same(u), layer(u))


def test_another_rule_is_another_layer():
    torch.manual_seed(0)
    layer, u = S4DLayer("bilinear"), torch.randn(2, L, H)
    assert not close(compress_layers(layer, N // 2, rule="zoh")[0](u), layer(u), 1e-3)
    with pytest.raises(ValueError, match="the rule is 'zoh' or 'bilinear', not 'euler'"):
        compress_layers(layer, 2, rule="euler")


def test_inputs_with_time_last_are_measured_when_one_says_so():
    torch.manual_seed(0)
    layer, u = S4DLayer(transposed=True), torch.randn(2, H, L).cumsum(-1)
    small, _ = compress_layers(layer, 3, u, method="weighted", transposed=True)
    turned, v = S4DLayer(), u.mT
    turned.load_state_dict(layer.state_dict())
    assert close(small(u), compress_layers(turned, 3, v, method="weighted")[0](v).mT)
    with pytest.raises(ValueError, match=r"\(2, 3, 40\), .* \(B, L, m\) with m = 3; say transp"):
        compress_layers(layer, 3, u, method="weighted")


class Twice(nn.Module):
    """One layer in two places, behind a normalisation."""

    def __init__(self, layer, named=False):
        super().__init__()
        self.norm, self.first, self.second = nn.BatchNorm1d(H), layer, layer
        self.named = named

    def forward(self, u):
        u = self.norm(u.mT).mT
        return self.second(self.first(u=u) if self.named else self.first(u))


@pytest.mark.parametrize("named", [False, True])
def test_a_layer_in_two_places_is_reduced_once_and_nothing_else_moves(layer, named):
    layer, facts = layer
    model, u = Twice(layer, named), torch.randn(2, L, H)
    before = {name: x.clone() for name, x in model.state_dict().items()}

    def rebuilt(old, state):
        new = type(old)() if "rule" not in facts else LAYERS[NAMES[type(old)]][0]()
        for name, value in state.items():
            owner, _, own = name.rpartition(".")
            module = new.get_submodule(owner)
            module._buffers.pop(own, None), module._parameters.pop(own, None)
            setattr(module, own, nn.Parameter(value))
        return new

    small, names = compress_layers(model, 4, u, method="weighted", rebuild=rebuilt, **facts)
    assert names == ["first"] and small.first is small.second and model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert torch.equal(small.norm.running_mean, before["norm.running_mean"])
    small(u)


NAMES = {S5Layer: "S5, bilinear, all states", S4DLayer: "S4D, bilinear"}


def test_what_is_not_trained_stays_untrained_and_buffers_stay_buffers():
    layer = S4DLayer()
    layer.D.requires_grad_(False)
    small = compress_layers(layer, 2)[0]
    assert not small.D.requires_grad and small.kernel.C.requires_grad
    assert dict(small.named_buffers()).keys() == {"kernel.log_dt"}
    assert small.kernel.A_imag.shape == (H, 2)


def test_a_layer_without_inputs_or_with_several_lengths_is_refused():
    torch.manual_seed(0)
    layer, u = LRULayer(), torch.randn(2, L, H)

    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, u):
            return self.layer(u)[:, :3] + self.layer(u[:, :9])[:, :3]

    with pytest.raises(ValueError, match="several shapes, .*one spectrum needs one length"):
        received(Uneven(), layer, u)
    with pytest.raises(ValueError, match="was not called"):
        received(nn.Linear(H, H), layer, u)
    with pytest.raises(ValueError, match="without a tensor"):
        received(layer, layer, [u])


def test_an_angle_below_zero_comes_back_between_zero_and_a_turn():
    torch.manual_seed(0)
    state = LRULayer().state_dict()
    system = LRU(state).to_system()
    turned = StateSpace(
        system.poles.conj(), system.B, system.C, system.D, 1.0, True, system.log_poles.conj()
    )
    new = LRU(state).from_system(turned)
    assert bool((new["theta_log"].exp() < 2 * math.pi).all())
    wanted, found = (s.impulse_response(30) for s in (turned, LRU(new).to_system()))
    assert close(found, wanted)


@pytest.mark.parametrize("kind", [LRULayer, S5Layer])
def test_another_feedthrough_needs_a_matrix_to_be_stored_in(kind):
    torch.manual_seed(0)
    state = dict(kind().state_dict())
    with pytest.raises(ValueError, match="stores only a diagonal one"):
        reduce_state(state, 4, "singular-perturbation")
    state["D"] = torch.diag(state["D"])
    small = reduce_state(state, 4, "singular-perturbation")
    assert not torch.allclose(small["D"], state["D"])
    a, b = (adapter_of(s).to_system().frequency_response([0.0]) for s in (state, small))
    assert close(b, a)


def test_s4d_adds_a_feedthrough_to_its_own():
    torch.manual_seed(0)
    state = {k.removeprefix("kernel."): x for k, x in S4DLayer().state_dict().items()}
    small = reduce_state(state, 4, "singular-perturbation")
    whole, cut = S4D(state).to_system(), S4D(small).to_system()
    at_zero = [s.frequency_response([0.0])[:, 0] for s in (whole, cut)]
    assert close(at_zero[1].real + small["D"] - state["D"], at_zero[0].real)
    with pytest.raises(ValueError, match="the state dict has no D"):
        reduce_state({k: x for k, x in state.items() if k != "D"}, 4, "singular-perturbation")


@pytest.mark.parametrize(
    "kind, change, message",
    [
        (LRULayer, {"D": torch.ones(2, H)}, r"D of an LRU layer has shape \(p, m\) = \(3, 3\)"),
        (S5Layer, {"D": torch.ones(2)}, r"D of an S5 layer .* got \(2,\)"),
        (LRULayer, {"B": None}, "lacks B; looked for B, found nu_log"),
        (S5Layer, {"C": None}, "this is no state dict of an S5 layer: it lacks C"),
        (S4DLayer, {"A_imag": torch.ones(H, N + 1)}, r"A_imag \(H, N\), .* got \(3, 8\), \(3, 9\)"),
        (S4DLayer, {"log_dt": torch.ones(H + 1)}, r"log_dt \(H,\)"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(kind, change, message):
    state = {k.removeprefix("kernel."): x for k, x in kind().state_dict().items()} | change
    state = {k: x for k, x in state.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        reduce_state(state, 2)


def test_what_an_adapter_does_not_know_is_carried_along():
    for kind in (LRULayer, S5Layer):
        state = dict(kind().state_dict()) | {"norm": torch.ones(2)}
        assert torch.equal(reduce_state(state, 2)["norm"], torch.ones(2))
