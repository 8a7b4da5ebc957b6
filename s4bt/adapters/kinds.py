"""From the parameters of S4D, S5 and LRU layers to systems, and back with fewer states.

An adapter reads a state dict by the names of public code, and is a small protocol:

    to_system()          what the layer computes: a `StateSpace` with its m inputs and p outputs,
                         or a `DiagonalLTI` where every channel is a system of its own
    from_system(small)   the state dict of a smaller layer that computes `small`

S4D    kernel 2 Re sum_n C_n (exp(dt A_n) - 1) / A_n exp(dt A_n l), H channels by themselves
S5     x[k] = Lambda_bar x[k-1] + B_bar u[k], y = Re(C x) + D u, twice Re with conjugate symmetry
LRU    lambda = exp(-exp(nu_log) + i exp(theta_log)), B scaled by exp(gamma_log), y = Re(C x) + D u
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from s4bt.reduction.dispatch import reduce
from s4bt.reduction.layers import reduce_system
from s4bt.reduction.state_space import StateSpace, bilinear_logarithms
from s4bt.reduction.systems import DiagonalLTI

State = dict[str, Tensor]
SMALLEST_ANGLE = 1e-30  # of a real positive pole, whose angle has no logarithm


class Adapter(Protocol):
    """What a further kind of layer needs."""

    def to_system(self) -> Any:
        """What the layer computes, a `StateSpace` or a discrete `DiagonalLTI` (H, N)."""

    def from_system(self, small: Any) -> State:
        """The state dict of a layer that computes `small`."""


def _looked_up(state: Mapping[str, Tensor], wanted: tuple[str, ...], kind: str) -> list[Tensor]:
    """The tensors of those names.  Raises ValueError, with what was found and looked for."""
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ValueError(
            f"this is no state dict of {kind}: it lacks {', '.join(missing)}; looked for "
            f"{', '.join(wanted)}, found {', '.join(state) or 'nothing'}"
        )
    return [state[name].detach() for name in wanted]


def _complex(state: Mapping[str, Tensor], name: str, kind: str) -> Tensor:
    """A complex matrix: as it is, as name_re and name_im, or with a last axis of two."""
    if f"{name}_re" in state and f"{name}_im" in state:
        return torch.complex(state[f"{name}_re"].detach(), state[f"{name}_im"].detach()).to(
            torch.complex128
        )
    (x,) = _looked_up(state, (name,), kind)
    if not x.is_complex() and x.shape[-1] == 2 and x.dim() >= 3:
        x = torch.view_as_complex(x.contiguous())
    return x.to(torch.complex128)


def _stored(like: Mapping[str, Tensor], name: str, value: Tensor) -> State:
    """A complex matrix in the way in which `like` stores it."""
    if f"{name}_re" in like:
        kind = like[f"{name}_re"].dtype
        return {f"{name}_re": value.real.to(kind), f"{name}_im": value.imag.to(kind)}
    old = like[name]
    if old.is_complex():
        return {name: value.to(old.dtype)}
    if old.dim() >= 3:
        return {name: torch.view_as_real(value).to(old.dtype)}
    return {name: value.to(torch.promote_types(old.dtype, torch.complex64))}


def _square(D: Tensor, outputs: int, inputs: int, kind: str) -> Tensor:
    """A feedthrough as a matrix: given as one, or as its diagonal.  Raises ValueError."""
    if D.dim() == 1 and len(D) == outputs == inputs:
        return torch.diag(D)
    if tuple(D.shape) != (outputs, inputs):
        raise ValueError(
            f"D of {kind} has shape (p, m) = ({outputs}, {inputs}), or (p,) where p = m; got "
            f"{tuple(D.shape)}"
        )
    return D


def _whole(old: Mapping[str, Tensor], new: State) -> State:
    """The new parameters, and what else the state dict holds, as it is."""
    return {name: x.detach() for name, x in old.items() if name not in new} | new


def _only_the_same(small: StateSpace, D: Tensor, kind: str) -> None:
    """Raise ValueError unless the feedthrough is still what the layer stores."""
    if not torch.allclose(small.D.real, D.double(), rtol=1e-6, atol=1e-9):
        raise ValueError(
            f"the reduced system has another feedthrough, and {kind} stores only a diagonal one; "
            "use a method that leaves it alone, such as balanced truncation"
        )


@dataclass(frozen=True)
class LRU:
    """A Linear Recurrent Unit: nu_log, theta_log, gamma_log (N,), B (N, m), C (p, N), D.

    (Orvieto et al. 2023)  B and C complex, or B_re, B_im, C_re, C_im; D (p,) or (p, m).
    """

    state: Mapping[str, Tensor]

    def to_system(self) -> StateSpace:
        """x[k] = lambda x[k-1] + gamma B u[k], y = Re(C x) + D u."""
        names = ("nu_log", "theta_log", "gamma_log", "D")
        nu, theta, gamma, D = (x.double() for x in _looked_up(self.state, names, "an LRU layer"))
        logs = torch.complex(-torch.exp(nu), torch.exp(theta))
        B = _complex(self.state, "B", "an LRU layer") * torch.exp(gamma)[:, None]
        C = _complex(self.state, "C", "an LRU layer")
        D = _square(D, C.shape[0], B.shape[1], "an LRU layer")
        return StateSpace(torch.exp(logs), B, C, D, 1.0, True, logs)

    def from_system(self, small: StateSpace) -> State:
        """gamma is sqrt(1 - |lambda|^2), as where training starts; B is divided by it."""
        kind, D = self.state["nu_log"].dtype, self.state["D"]
        a = small.spectrum.logs
        angle = torch.remainder(a.imag, 2 * math.pi).clamp_min(SMALLEST_ANGLE)
        gamma = (-torch.expm1(2 * a.real)).sqrt()
        if D.dim() == 1:
            _only_the_same(small, torch.diag(D), "LRU")
        new = {"nu_log": torch.log(-a.real), "theta_log": torch.log(angle)}
        new["gamma_log"] = gamma.log()
        new = {name: x.to(kind) for name, x in new.items()}
        new |= _stored(self.state, "B", small.B / gamma[:, None])
        new |= _stored(self.state, "C", small.C)
        if D.dim() == 2:
            new["D"] = small.D.real.to(D.dtype)
        return _whole(self.state, new)


@dataclass(frozen=True)
class S5:
    """An S5 layer: Lambda (P,), B (P, m), C (p, P), D, log_step (P,) or (P, 1).

    (Smith et al. 2023)  rule: "zoh" or "bilinear"; conjugate_symmetry: half of the states are
    stored, and the output is 2 Re(C x). Lambda complex, or Lambda_re, Lambda_im.
    """

    state: Mapping[str, Tensor]
    rule: str = "zoh"
    conjugate_symmetry: bool = True

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        if "Lambda" in self.state or "Lambda_re" not in self.state:
            (Lambda,) = _looked_up(self.state, ("Lambda",), "an S5 layer")
        else:
            parts = _looked_up(self.state, ("Lambda_re", "Lambda_im"), "an S5 layer")
            Lambda = torch.complex(*parts)
        D, log_step = _looked_up(self.state, ("D", "log_step"), "an S5 layer")
        return Lambda.to(torch.complex128), D.double(), log_step.double().flatten()

    def to_system(self) -> StateSpace:
        """The discrete system, every state with a step of its own."""
        Lambda, D, log_step = self._parts()
        C = _complex(self.state, "C", "an S5 layer") * (2 if self.conjugate_symmetry else 1)
        B = _complex(self.state, "B", "an S5 layer")
        D = _square(D, C.shape[0], B.shape[1], "an S5 layer")
        whole = StateSpace(Lambda, B, C, D, real=True)
        return whole.discretize(torch.exp(log_step), self.rule)

    def from_system(self, small: StateSpace) -> State:
        """All states with the geometric mean of the old steps."""
        _, D, log_step = self._parts()
        if self.state["D"].dim() == 1:
            _only_the_same(small, torch.diag(D), "S5")
        step = log_step.mean().exp()
        a = small.spectrum.logs
        if self.rule == "zoh":
            Lambda = a / step
            B = small.B * (Lambda / torch.expm1(a))[:, None]
        else:
            Lambda = 2 / step * torch.tanh(a / 2)
            B = small.B * ((1 - Lambda * step / 2) / step)[:, None]
        C = small.C / (2 if self.conjugate_symmetry else 1)
        name = "Lambda" if "Lambda" in self.state else "Lambda_re"
        kind = self.state[name].dtype
        new = (
            {"Lambda": Lambda.to(kind)}
            if name == "Lambda"
            else {"Lambda_re": Lambda.real.to(kind), "Lambda_im": Lambda.imag.to(kind)}
        )
        old = self.state["log_step"]
        new["log_step"] = step.log().to(old).expand(len(Lambda), *old.shape[1:]).clone()
        new |= _stored(self.state, "B", B) | _stored(self.state, "C", C)
        if D.dim() == 2:
            new["D"] = small.D.real.to(self.state["D"].dtype)
        return _whole(self.state, new)


@dataclass(frozen=True)
class S4D:
    """An S4D layer: log_A_real, A_imag (H, N), C (H, N) or (1, H, N), log_dt (H,), D (H,).

    (Gu et al. 2022; state-spaces/s4)  rule: "zoh" or "bilinear". The kernel is *twice* the real
    part of the sum, because S4 counts a state and its conjugate.
    """

    state: Mapping[str, Tensor]
    rule: str = "zoh"

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        names = ("log_A_real", "A_imag", "log_dt")
        real, imag, log_dt = (x.double() for x in _looked_up(self.state, names, "an S4D layer"))
        C = _complex(self.state, "C", "an S4D layer")
        shapes = [tuple(x.shape) for x in (real, imag, C, log_dt)]
        if real.dim() != 2 or shapes[1] != shapes[0] or C.numel() != real.numel():
            good = False
        else:
            good = log_dt.numel() == len(real) and shapes[2][-2:] == shapes[0]
        if not good:
            raise ValueError(
                "an S4D layer has log_A_real and A_imag (H, N), C (H, N) or (1, H, N), and log_dt "
                f"(H,); got {', '.join(map(str, shapes))}"
            )
        C = C.reshape(real.shape)
        return torch.complex(-torch.exp(real), imag), C, torch.exp(log_dt.flatten())

    def to_system(self) -> DiagonalLTI:
        """The discrete kernels of the H channels, (H, N), real; D stays outside."""
        poles, C, dt = self._parts()
        system = DiagonalLTI(poles, 2 * C)
        if self.rule == "zoh":
            return system.discretize(dt)
        half = poles * dt[:, None] / 2
        logs = bilinear_logarithms(2 * half)
        w = 2 * C * dt[:, None] / (1 - half)
        return DiagonalLTI(torch.exp(logs), w, dt, True, logs)

    def from_system(self, small: DiagonalLTI) -> State:
        """Steps and D as they were.  Raises ValueError for a feedthrough of the system's own."""
        if bool((small.feedthrough != 0).any()) and "D" not in self.state:
            raise ValueError("the reduced layer has a feedthrough, and the state dict has no D")
        dt = self._parts()[2]
        if self.rule == "zoh":
            whole = small.to_continuous()
            poles, C, direct = whole.poles, whole.residues / 2, whole.feedthrough
        else:
            half, direct = torch.tanh(small.logs / 2), small.feedthrough
            poles = 2 * half / dt[:, None]
            C = small.residues * (1 - half) / (2 * dt[:, None])
        old, real = self.state["C"], self.state["log_A_real"].dtype
        C = C.reshape(*old.shape[: -2 if not old.is_complex() else -1], -1)
        new = {"log_A_real": torch.log(-poles.real).to(real), "A_imag": poles.imag.to(real)}
        new["C"] = C.to(old.dtype) if old.is_complex() else torch.view_as_real(C).to(old.dtype)
        if "D" in self.state:
            D = self.state["D"]
            new["D"] = (D + direct.real.reshape(D.shape)).to(D.dtype)
        return _whole(self.state, new)


def adapter_of(state: State, rule: str = "zoh", conjugate_symmetry: bool = True) -> Adapter:
    """The adapter whose names a state dict has.

    rule: how S4D and S5 are discretised, "zoh" or "bilinear"; conjugate_symmetry: whether S5 stores
    one of each conjugate pair. A state dict does not say; these are what public code does by
    default.  Raises ValueError, with what was found.
    """
    if rule not in ("zoh", "bilinear"):
        raise ValueError(f"the rule is 'zoh' or 'bilinear', not {rule!r}")
    if "nu_log" in state:
        return LRU(state)
    if "log_step" in state:
        return S5(state, rule, conjugate_symmetry)
    if "log_A_real" in state:
        return S4D(state, rule)
    raise ValueError(
        "these are the parameters of no layer that is known here; looked for nu_log of LRU, "
        f"log_step of S5, log_A_real of S4D, found {', '.join(state) or 'nothing'}"
    )


def reduce_state(
    state: State,
    rank: int,
    method: str = "balanced",
    adapter: Adapter | None = None,
    rule: str = "zoh",
    conjugate_symmetry: bool = True,
    **options: Any,
) -> State:
    """A layer's state dict in, that of a layer with `rank` modes out.

    adapter: what reads and writes it; if not given, that of `adapter_of`, with rule and
    conjugate_symmetry.  method, options: as in `reduce_layer`, or, where every channel has a system
    of its own (S4D), as in `s4bt.reduce`.
    Raises ValueError and UnstableSystem as they do.
    """
    adapter = adapter or adapter_of(state, rule, conjugate_symmetry)
    return adapter.from_system(reduce_any(adapter.to_system(), rank, method, **options))


def reduce_any(system: Any, rank: int, method: str, **options: Any) -> Any:
    """A `StateSpace`, or every channel of a `DiagonalLTI`, with `rank` modes."""
    if isinstance(system, DiagonalLTI):
        return reduce(system, rank, "bt-discrete" if method == "balanced" else method, **options)
    return reduce_system(system, rank, method, **options)
