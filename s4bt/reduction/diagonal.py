"""Batches of diagonal systems as data: shapes, checks, and what is done to all tensors alike.

poles        (..., N)  lambda
residues     (..., N)  w
feedthrough  (...)     d
dt           None for a continuous system, the step of a discrete one; a number, or (...)

The equations are in `systems`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from s4bt.reduction.checks import UnstableSystem
from s4bt.reduction.powers import logarithms

DOUBLES = {"f": 8, "c": 16}  # bytes of a real and a complex number in double precision
SHOWN = 3  # places listed in a message


def _place(*index: int) -> str:
    """An index (..., n) in words: channel (batch index) and mode."""
    *batch, n = index
    channel = f"channel {', '.join(map(str, batch))}, " if batch else ""
    return f"{channel}mode {n}"


def _places(bad: Tensor) -> str:
    """Where a mask over (..., N) holds: the first three."""
    return "first at " + "; ".join(_place(*index) for index in bad.nonzero()[:SHOWN].tolist())


def as_tensor(x: Any) -> Tensor:
    """A tensor as it is, and numbers, lists and arrays in the precision of NumPy, at most double.

    Whole numbers are taken in double precision. An array is copied.
    """
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        kind = array.dtype.newbyteorder("=")
        if array.dtype.kind in "fc" and array.dtype.itemsize > DOUBLES[array.dtype.kind]:
            kind = np.dtype(f"{array.dtype.kind}{DOUBLES[array.dtype.kind]}")
        x = torch.from_numpy(np.array(array, kind, order="C"))
    return x if x.is_floating_point() or x.is_complex() else x.to(torch.float64)


def per_batch(x: Any, like: Tensor) -> Tensor:
    """A step, a number or of the batch shape (...), made ready to multiply `like` (..., N).

    Raises ValueError if its shape does not fit, or it is not positive and finite.
    """
    step = as_tensor(x).to(like.device)
    if step.is_complex() or not bool((torch.isfinite(step) & (step > 0)).all()):
        raise ValueError(f"steps must be positive numbers; got {_shown(step)}")
    step = step.to(like.real.dtype)
    return step if step.dim() == 0 else _fitted(step, like.shape[:-1], "steps").unsqueeze(-1)


def _shown(values: Tensor) -> str:
    """A number, or the least of several."""
    if values.dim() == 0 or values.is_complex():
        return str(values.tolist())
    return f"a smallest one of {float(values.min()):.3g}"


def power_of_four(size: Tensor) -> Tensor:
    """The power of four next to real numbers, 1 for zero."""
    half = (torch.frexp(size).exponent - 1).div(2, rounding_mode="floor")
    least = math.log2(torch.finfo(size.dtype).tiny) / 2
    half = half.to(size.dtype).clamp(min=least)
    return torch.where(size > 0, torch.exp2(half).square(), 1)


def _fitted(x: Tensor, shape: torch.Size, name: str) -> Tensor:
    """x in a shape.  Raises ValueError if it has another that does not broadcast to it."""
    try:
        return x.expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} of shape {tuple(x.shape)} do not fit; need {tuple(shape)}, or one number"
        ) from error


@dataclass(frozen=True)
class DiagonalBatch:
    """The data of `s4bt.reduction.systems.DiagonalLTI`, which says what they mean."""

    poles: Tensor
    residues: Tensor
    dt: Any = None
    real: bool = True
    log_poles: Tensor | None = None
    # always a tensor (...) once the system is made
    feedthrough: Any = None

    def __post_init__(self) -> None:
        poles, residues = as_tensor(self.poles), as_tensor(self.residues)
        dtype = torch.promote_types(
            torch.promote_types(poles.dtype, residues.dtype), torch.complex64
        )
        shapes = f"poles {tuple(poles.shape)} and residues {tuple(residues.shape)}"
        try:
            poles, residues = torch.broadcast_tensors(poles.to(dtype), residues.to(dtype))
        except RuntimeError as error:
            raise ValueError(f"{shapes} do not fit each other: both need shape (..., N)") from error
        if poles.dim() == 0 or poles.shape[-1] == 0:
            raise ValueError(
                f"a system needs at least one mode; poles have shape {tuple(poles.shape)}"
            )
        if not poles.numel():
            raise ValueError(f"the batch is empty: poles have shape {tuple(poles.shape)}")
        object.__setattr__(self, "poles", poles.resolve_conj())
        object.__setattr__(self, "residues", residues.resolve_conj())
        if self.log_poles is not None:
            logs = as_tensor(self.log_poles).to(poles).resolve_conj()
            object.__setattr__(self, "log_poles", _fitted(logs, poles.shape, "log_poles"))
        for name in ("poles", "residues", "log_poles"):
            if (values := getattr(self, name)) is None:
                continue
            bad = ~torch.isfinite(torch.view_as_real(values)).all(-1)
            if bad.any():
                raise ValueError(
                    f"{int(bad.sum())} of {bad.numel()} {name} are not finite; {_places(bad)}"
                )
        if self.dt is not None:
            per_batch(self.dt, poles)
            step = as_tensor(self.dt).to(poles.device)
            if step.dim():
                object.__setattr__(self, "dt", step.expand(poles.shape[:-1]))
        object.__setattr__(self, "feedthrough", self._checked_feedthrough())

    def _checked_feedthrough(self) -> Tensor:
        """The feedthrough as a tensor of the batch shape, real if the system is."""
        kind, batch = self.poles.real if self.real else self.poles, self.poles.shape[:-1]
        if self.feedthrough is None:
            return kind.new_zeros(()).expand(batch)
        given = as_tensor(self.feedthrough).to(kind.device)
        if given.is_complex() and self.real:
            if bool((given.imag != 0).any()):
                raise ValueError("the feedthrough of a real system must be real")
            given = given.real
        if not bool(torch.isfinite(given).all()):
            bad = int((~torch.isfinite(given)).sum())
            raise ValueError(f"{bad} of {given.numel()} feedthroughs are not finite")
        return _fitted(given.to(kind.dtype), batch, "feedthroughs")

    @property
    def logs(self) -> Tensor:
        """log lambda of a discrete system, (..., N): `log_poles`, or the logarithms of the poles.

        A pole at 0 counts as the smallest positive number.
        """
        return logarithms(self.poles) if self.log_poles is None else self.log_poles

    @property
    def modes(self) -> int:
        """Number of complex modes N."""
        return self.poles.shape[-1]

    @property
    def order(self) -> int:
        """Order of the system that is balanced: N, or 2N of a real one, counted with conjugates."""
        return self.modes * (2 if self.real else 1)

    @property
    def batch(self) -> torch.Size:
        """The batch shape (...)."""
        return self.poles.shape[:-1]

    @property
    def exponents(self) -> Tensor:
        """a with modes exp(a t): the poles of a continuous system, the `logs` of a discrete one."""
        return self.poles if self.dt is None else self.logs

    def map(self, modes: Callable, batch: Callable | None = None) -> Self:
        """The system with a function applied to each of its tensors.

        modes: of the tensors (..., N): poles, residues and log_poles. batch: of those (...), the
        feedthrough and dt if it is a tensor; they stay as they are without it.
        """
        dt, direct = self.dt, self.feedthrough
        if batch is not None:
            direct = batch(direct)
            dt = batch(dt) if isinstance(dt, Tensor) and dt.dim() else dt
        logs = None if self.log_poles is None else modes(self.log_poles)
        poles, residues = modes(self.poles), modes(self.residues)
        return replace(
            self, poles=poles, residues=residues, dt=dt, log_poles=logs, feedthrough=direct
        )

    def unit(self) -> Tensor:
        """A power of four (...), near the largest residue or feedthrough: 1 of a silent system.

        Dividing by it changes no digit, and keeps squares from over- and underflowing.
        """
        with torch.no_grad():
            size = torch.maximum(self.residues.abs().amax(-1), self.feedthrough.abs())
            return power_of_four(size)

    def times(self, gain: Tensor) -> Self:
        """The systems with the output multiplied by a real number, or one (...) each."""
        direct = self.feedthrough * gain
        return replace(self, residues=self.residues * gain[..., None], feedthrough=direct)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same system in another dtype or on another device (arguments of torch.Tensor.to)."""
        return self.map(lambda x: x.to(*args, **kwargs))

    def select(self, index: Any) -> Self:
        """The systems that `index`, which indexes the batch dimensions, picks."""
        return self.map(itemgetter(index), itemgetter(index))

    def take(self, index: Tensor) -> Self:
        """The modes numbered by index (..., k), for every system its own."""
        return self.map(lambda x: x.gather(-1, index))

    def flatten(self) -> Self:
        """The same systems in one batch dimension."""
        one = self
        if isinstance(self.dt, Tensor) and self.dt.dim():
            one = replace(self, dt=self.dt.expand(self.batch))
        return one.map(lambda x: x.reshape(-1, self.modes), lambda x: x.reshape(-1))

    def unflatten(self, batch: torch.Size) -> Self:
        """The inverse of `flatten`."""
        return self.map(lambda x: x.reshape(*batch, -1), lambda x: x.reshape(batch))

    def stable(self) -> Tensor:
        """Mask (..., N) of the poles that are strictly stable."""
        return self._excess()[0] < 0

    def with_conjugates(self) -> Self:
        """The complex system with the same output; if real, of order 2N, with conjugate poles."""
        if not self.real:
            return self
        half = replace(self, residues=self.residues / 2, real=False)
        return half.map(lambda x: torch.cat([x, x.conj()], -1))

    def __sub__(self, other: Self) -> Self:
        """The error system: poles of both, and the residues of the other with the opposite sign."""
        if (self.dt is None) != (other.dt is None) or self.real != other.real:
            raise ValueError(
                "systems of different kinds (continuous or discrete, real or complex) have no "
                "difference"
            )
        if self.batch != other.batch:
            raise ValueError(
                f"batches of shape {tuple(self.batch)} and {tuple(other.batch)} have no difference"
            )
        steps = (as_tensor(0 if one.dt is None else one.dt) for one in (self, other))
        if not torch.equal(*torch.broadcast_tensors(*steps)):
            raise ValueError("discrete systems with different steps have no difference")
        logs = None
        if self.log_poles is not None and other.log_poles is not None:
            logs = torch.cat([self.log_poles, other.log_poles], -1)
        return replace(
            self,
            poles=torch.cat([self.poles, other.poles], -1),
            residues=torch.cat([self.residues, -other.residues], -1),
            log_poles=logs,
            feedthrough=self.feedthrough - other.feedthrough,
        )

    def _excess(self) -> tuple[Tensor, str]:
        """How far each pole is outside the stable region, (..., N), and what that number is."""
        if self.dt is None:
            return self.poles.real, "real part"
        return self.logs.real, "log modulus"

    def require_stable(self, what: str) -> None:
        """Raise UnstableSystem, with numbers and places, unless every pole is strictly stable."""
        excess, name = self._excess()
        bad = ~(excess < 0)
        if bad.any():
            raise UnstableSystem(
                f"{what} needs strictly stable poles, but {int(bad.sum())} of {bad.numel()} are "
                f"not (largest {name} {float(excess.max()):.3g}; {_places(bad)}). `reduce` with "
                "unstable='keep' reduces the stable part and keeps the rest."
            )
