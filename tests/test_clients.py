"""What layers of other people's packages compute is kept, and smaller ones run in their code."""

import contextlib
import io
from dataclasses import dataclass

import clients
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from s4bt.adapters import LRU, S4D, compress_layers, reduce_state
from s4bt.reduction.multi import multi_balanced_truncation, multi_hankel_singular_values
from s4bt.reduction.state_space import StateSpace
from s4bt.study.config import load_task
from s4bt.tasks.prepare import prepare

WIDTH, MODES, LENGTH = 6, 16, 60
# their constructors print, and single precision decides how near outputs can come
NEAR = 1e-5


@dataclass(frozen=True)
class OtherS5:
    """S5 as lrnnx stores it: A (N, 2) of softplus and angle, log_dt (N,), x @ D."""

    state: dict

    def to_system(self):
        real, imag = self.state["A"].double().unbind(-1)
        C = torch.view_as_complex(self.state["C"].double())
        whole = StateSpace(
            torch.complex(-F.softplus(real), imag), self.state["B"], C, self.state["D"].T, real=True
        )
        return whole.discretize(self.state["log_dt"].double().exp())

    def from_system(self, small):
        log_dt = self.state["log_dt"].mean().expand(small.modes).clone()
        a = small.spectrum.logs
        Lambda = a / log_dt.double().exp()
        A = torch.stack([torch.log(torch.expm1(-Lambda.real)), Lambda.imag], -1)
        B = small.B * (Lambda / torch.expm1(a))[:, None]
        C = torch.view_as_real(small.C).float()
        return {"A": A.float(), "B": B.cfloat(), "C": C, "log_dt": log_dt, "D": self.state["D"]}


@dataclass(frozen=True)
class OtherS4D:
    """S4D as lrnnx stores it: other names, and B, that is multiplied with C."""

    state: dict

    def own(self):
        B, C = (torch.view_as_complex(self.state[name]) for name in "BC")
        names = {"log_A_real": "A_real", "A_imag": "A_imag", "log_dt": "inv_dt", "D": "D"}
        return S4D({new: self.state[old] for new, old in names.items()} | {"C": B * C})

    def to_system(self):
        return self.own().to_system()

    def from_system(self, small):
        new = self.own().from_system(small)
        C = torch.view_as_real(new["C"])
        one = torch.view_as_real(torch.ones_like(new["C"]))
        names = {"A_real": "log_A_real", "A_imag": "A_imag", "inv_dt": "log_dt", "D": "D"}
        return {old: new[known] for old, known in names.items()} | {"B": one, "C": C}


def silently(make, *arguments, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        return make(*arguments, **options)


def lru_of_lru_pytorch(N=MODES):
    return clients.lru_pytorch()(WIDTH, WIDTH, N, rmin=0.5, rmax=0.98), LRU


def lru_of_lrnnx(N=MODES):
    return clients.lrnnx("models.lti.lru").LRU(WIDTH, N, 0.5, 0.98), LRU


def s5_of_lrnnx(N=MODES):
    return clients.lrnnx("models.lti.s5").S5(WIDTH, N, "zoh"), OtherS5


def s4d_of_lrnnx(N=MODES):
    make = clients.lrnnx("models.lti.s4d").S4D
    return silently(make, WIDTH, d_state=2 * N, final_act=None, transposed=False), OtherS4D


def own_parameters(layer):
    return {k: p.detach() for k, p in layer.named_parameters() if "." not in k}


def with_parameters(make, state, N):
    """A layer of their class with N modes and these parameters."""
    layer, _ = make(N)
    for name, value in state.items():
        for module in (layer, *(m for k, m in layer.named_modules() if k.endswith("kernel"))):
            if name in dict(module.named_parameters(recurse=False)):
                module.register_parameter(name, nn.Parameter(value))
    return layer


def output(layer, u):
    found = layer(u)
    return found[0] if isinstance(found, tuple) else found


CLIENTS = [lru_of_lru_pytorch, lru_of_lrnnx, s5_of_lrnnx, s4d_of_lrnnx]


@pytest.mark.parametrize("make", CLIENTS)
def test_full_rank_reproduces_the_layers_own_output(make):
    torch.manual_seed(0)
    layer, adapter = make()
    u, state = torch.randn(2, LENGTH, WIDTH), own_parameters(layer)
    again = with_parameters(make, reduce_state(state, MODES, adapter=adapter(state)), MODES)
    y = output(layer, u)
    assert (output(again, u) - y).norm() < NEAR * y.norm()


@pytest.mark.parametrize("make", CLIENTS)
def test_the_smaller_layer_runs_in_their_code_and_computes_the_reduced_system(make):
    torch.manual_seed(1)
    layer, adapter = make()
    state, r = own_parameters(layer), 6
    small = reduce_state(state, r, adapter=adapter(state))
    theirs = with_parameters(make, small, r)
    u = torch.randn(2, LENGTH, WIDTH)
    whole, cut = adapter(state).to_system(), adapter(small).to_system()
    assert cut.modes == r
    change = (whole - cut).impulse_response(LENGTH)
    if make is s4d_of_lrnnx:
        # their layer puts its output through two nonlinearities, each steeper than 1.13 nowhere
        y = output(layer, u) - output(theirs, u)
        assert y.norm() <= 1.13**2 * float((whole - cut).hinf_norm().max()) * u.norm() * (1 + NEAR)
        return
    expected = torch.stack(
        [sum(change[k] @ x[t - k] for k in range(t + 1)) for x in u.double() for t in range(LENGTH)]
    ).reshape(u.shape)
    y = output(layer, u) - output(theirs, u)
    assert (y - expected).norm() < NEAR * output(layer, u).norm()


def trained(make_layer, data, steps=60):
    """A classifier of expressions whose only layer is theirs, trained for some seconds."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layer = nn.Embedding(data.info.vocabulary, WIDTH), make_layer()
            self.head = nn.Linear(WIDTH, data.info.classes)

        def forward(self, x):
            return self.head(F.gelu(self.layer(self.embed(x))).mean(1))

    torch.manual_seed(0)
    net, split = Net(), data["train"]
    opt = torch.optim.AdamW(net.parameters(), 0.01)
    losses = []
    for step in range(steps):
        rows = slice(step * 32 % len(split), step * 32 % len(split) + 32)
        x, y = torch.tensor(split.x[rows]).long(), torch.tensor(split.y[rows])
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < sum(losses[:10])
    return net, torch.tensor(data["test"].x[:64]).long()


@pytest.mark.parametrize("make, adapter", [(lru_of_lrnnx, LRU), (s5_of_lrnnx, OtherS5)])
def test_a_trained_layer_loses_no_more_than_the_bound(make, adapter, tmp_path):
    data = prepare("listops", load_task("quick", "listops")[0].data, tmp_path / "arrays")
    net, x = trained(lambda: make()[0], data)
    system = adapter(own_parameters(net.layer)).to_system()
    sigma = multi_hankel_singular_values(system)
    small, names = compress_layers(net, 8, x, adapt=lambda state: adapt(state, adapter))
    assert names == ["layer"] and small.layer is not net.layer
    u = net.embed(x)
    cut, _ = multi_balanced_truncation(system, 8)
    states = int(torch.where(cut.poles.imag.abs() > 1e-12, 2, 1).sum())
    bound = 2 * float(sigma[states:].sum())
    lost = (small.layer(u) - net.layer(u)).norm()
    assert 0 < lost <= bound * u.norm() + NEAR * net.layer(u).norm()
    # on what the layer receives, the weighted fit is nearer
    fitted, _ = compress_layers(net, 8, x, method="weighted", adapt=lambda s: adapt(s, adapter))
    assert (fitted.layer(u) - net.layer(u)).norm() < lost


def adapt(state, adapter):
    """Their names, or no layer of theirs."""
    if "C" not in state and "C_re" not in state:
        raise ValueError("no such layer")
    return adapter(state)
