"""The diagonal state space (DSS) layer of Gupta et al. 2022 (arXiv 2203.14343).

H, N, L   channels, complex modes per channel, sequence length
Lambda    poles: (N,) if the channels share them ("tied"), (H, N) if not ("per-channel")
W         (H, N)   output weights;  D (H,)  feedthrough
dt        (H,)     step of each channel, exp(log_dt); (H, 2) if separate_dt: one for the real and
                   one for the imaginary part of lambda, as in the public DSS code
K         (H, L)   convolution kernel;  y = K * u + D u

exp       K_h[l] = Re sum_n W_hn (exp(lambda_n dt_h) - 1) / lambda_n  exp(lambda_n dt_h l)
          with Re lambda = -exp(.)                                                       (prop. 1a)
softmax   the same with W_hn / (exp(lambda_n dt_h length) - 1) for W_hn, any Re lambda   (prop. 1b)

In single precision the kernel's error stays below 2e-6 of its size around l, however large l is,
until it has decayed to e^-70: exponents are taken in double precision. In chunks
(`s4bt.nn.convolution`) it grows by up to 1e-8 of that size a step.

`length` is the sequence length that normalises the softmax kernel; a shorter input takes the first
L samples of it, so that convolution and recurrence stay equal.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from s4bt.nn.convolution import FFTConvolution, convolve
from s4bt.reduction.checks import UnstableSystem, whole_number
from s4bt.reduction.powers import power_sum

if TYPE_CHECKING:
    from s4bt.reduction.systems import DiagonalLTI

STATE_SPACE = ("Lambda_re", "Lambda_im", "W", "log_dt", "D")
VERSIONS = ("exp", "softmax")
SHARING = ("tied", "per-channel")


@functools.cache
def skew_hippo(N: int) -> np.ndarray:
    """The N eigenvalues with positive imaginary part of Skew-HiPPO, complex (N,), largest first.

    S = (M - M^T) / 2 of order 2N with M_ij = sqrt((2i+1)(2j+1)) for i > j; real part -1/2.
    (Gupta et al. 2022)
    """
    v = np.sqrt(2 * np.arange(2 * N) + 1.0)
    M = np.tril(np.outer(v, v), -1)
    eigenvalues = np.linalg.eigvalsh(0.5j * (M - M.T))
    return -0.5 + 1j * np.sort(eigenvalues)[::-1][:N]


class DSS(nn.Module):
    """One DSS layer, y = K * u + D u: (B, H, L) -> (B, H, L), with K as in the module's glossary.

    Parameters
    ----------
    channels, state : int
        H and N.
    version : "exp" or "softmax"
        softmax needs `length`.
    sharing : "tied" or "per-channel"
        Whether the channels share their poles.
    dt_min, dt_max : float
        The steps start log-uniform between them.
    length : int, optional
        Normalises the softmax kernel.
    separate_dt : bool
        Steps of their own for real and imaginary parts.

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> layer = DSS(channels=4, state=16)
    >>> layer(torch.zeros(2, 4, 100)).shape
    torch.Size([2, 4, 100])
    """

    def __init__(
        self,
        channels: int,
        state: int,
        version: str = "exp",
        sharing: str = "tied",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        length: int | None = None,
        separate_dt: bool = False,
    ):
        super().__init__()
        if version not in VERSIONS or sharing not in SHARING:
            raise ValueError(
                f"version is 'exp' or 'softmax', sharing 'tied' or 'per-channel'; got {version!r}, "
                f"{sharing!r}"
            )
        if version == "softmax" and not length:
            raise ValueError(
                "the softmax version needs `length`, the sequence length that normalises its kernel"
            )
        channels = whole_number(channels, "channels", 1)
        state = whole_number(state, "state", 1)
        length = None if length is None else whole_number(length, "length", 1)
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"need 0 < dt_min <= dt_max; got {dt_min}, {dt_max}")
        self.channels, self.state, self.version, self.sharing = channels, state, version, sharing
        self.length, self.separate_dt = length, separate_dt
        Lambda = torch.tensor(skew_hippo(state).copy())
        if sharing == "per-channel":
            Lambda = Lambda.expand(channels, state)
        re = torch.log(-Lambda.real) if version == "exp" else Lambda.real
        self.Lambda_re = nn.Parameter(re.float().clone())
        self.Lambda_im = nn.Parameter(Lambda.imag.float().clone())
        self.W = nn.Parameter(torch.randn(channels, state, 2) / 2**0.5)
        log_dt = torch.empty((channels, 2) if separate_dt else (channels,))
        self.log_dt = nn.Parameter(log_dt.uniform_(math.log(dt_min), math.log(dt_max)))
        self.D = nn.Parameter(torch.randn(channels))

    def Lambda(self, dtype: torch.dtype | None = None) -> Tensor:
        """Poles, complex (N,) or (H, N), in the precision of the parameters or a real dtype."""
        re, im = self.Lambda_re.to(dtype), self.Lambda_im.to(dtype)
        return torch.complex(-torch.exp(re) if self.version == "exp" else re, im)

    def _exponent(self, Lambda: Tensor, dt: Tensor) -> Tensor:
        """lambda dt, (H, N)."""
        if not self.separate_dt:
            return Lambda * dt[:, None]
        return torch.complex(Lambda.real * dt[:, :1], Lambda.imag * dt[:, 1:])

    def _discrete(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logarithms a of the discrete poles, residues w, and which poles grow, (H, N) each.

        K[l] = Re sum_n w_n exp(a_n (l - s_n)), with s_n = length - 1 for growing poles (softmax
        only) and 0 for the others, so that no exponential overflows. The mask is None if no pole
        can grow. a is in double precision, as a l needs it; w in that of the parameters.
        """
        Lambda, W = self.Lambda(torch.float64), torch.view_as_complex(self.W)
        a = self._exponent(Lambda, torch.exp(self.log_dt.double()))  # (H, N)
        w = W * torch.reciprocal(Lambda)
        if self.version == "exp":
            return a, (w * torch.expm1(a)).to(W.dtype), None
        assert self.length is not None
        # (e^a - 1) / (e^{aL} - 1) * e^{a(L-1)} = (e^{-a} - 1) / (e^{-aL} - 1)
        growing = a.real > 0
        back = torch.where(growing, -a, a)
        w = w * torch.expm1(back) / torch.expm1(back * self.length)
        return a, w.to(W.dtype), growing

    def kernel(self, length: int) -> Tensor:
        """K (H, length)."""
        return self._kernel(length, *self._discrete())

    def _kernel(self, length: int, a: Tensor, w: Tensor, growing: Tensor | None) -> Tensor:
        if growing is None or not bool(growing.any()):
            return power_sum(a, w, length)
        assert self.length is not None
        if length > self.length:
            raise UnstableSystem(
                f"{int(growing.sum())} poles of this softmax layer grow; its kernel is defined up "
                f"to length {self.length}, not {length}"
            )
        # backwards they decay
        a_up, w_up = torch.where(growing, a, 0), torch.where(growing, w, 0)
        last = w_up * torch.exp(a_up * (length - self.length)).to(w.dtype)
        up = power_sum(-a_up, last, length).flip(-1)
        return power_sum(torch.where(growing, 0, a), torch.where(growing, 0, w), length) + up

    def forward(self, u: Tensor) -> Tensor:
        """u (B, H, L) -> y (B, H, L), in the precision of the parameters.

        Fastest if u is laid out in memory as (H, B, L), as y is.
        """
        with torch.autocast(u.device.type, enabled=False):
            v = u.transpose(0, 1).to(self.D.dtype).contiguous()
            a, w, growing = self._discrete()
            if growing is None:
                return convolve(v, a, w, self.D).transpose(0, 1)
            K = self._kernel(u.shape[-1], a, w, growing)
            return FFTConvolution.apply(v, K, self.D).transpose(0, 1)

    def step(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of the recurrence x <- exp(lambda dt) x + u, y = Re(w x) + D u.

        Equal to `forward`, step by step. u (B, H); state complex (B, H, N), None for the zero
        state. Returns y (B, H) and the new state.  Raises UnstableSystem if a pole grows.
        """
        a, w, growing = self._discrete()
        if growing is not None and bool(growing.any()):
            raise UnstableSystem(
                f"{int(growing.sum())} of {growing.numel()} poles of this softmax layer have a "
                "positive real part: its recurrence overflows. Use `forward`, or train with "
                "version 'exp'."
            )
        if state is None:
            state = u[..., None].to(w.dtype)
        else:
            state = torch.exp(a).to(w.dtype) * state + u[..., None]
        return (w * state).sum(-1).real + self.D * u, state

    def to_lti(self) -> DiagonalLTI:
        """The continuous system (Lambda, 1, W) of every channel, real, complex128 (H, N), detached.

        `to_lti().discretize(dt)` has the layer's kernel K as its impulse response. For the softmax
        version the residues are W / (exp(lambda dt length) - 1); reducers refuse it when a pole
        grows. With separate steps the poles are those that the first step turns into the layer's, a
        different set for every channel, so methods that share poles refuse it.
        """
        from s4bt.reduction.systems import DiagonalLTI  # training needs no reduction

        with torch.no_grad():
            re = self.Lambda_re.double()
            re = -torch.exp(re) if self.version == "exp" else re
            Lambda = torch.complex(re, self.Lambda_im.double())
            W = torch.view_as_complex(self.W.double())
            a = self._exponent(Lambda, self.log_dt.double().exp())
            if self.version == "softmax":
                assert self.length is not None
                W = W / torch.expm1(a * self.length)
            if not self.separate_dt:
                return DiagonalLTI(Lambda.expand_as(W), W, real=True)
            poles = a / self.dt()[:, None]
            return DiagonalLTI(poles, W * poles / Lambda, real=True)

    def dt(self) -> Tensor:
        """Steps of the channels, the first of separate ones, float64 (H,), detached."""
        return self.log_dt.detach().double().exp().reshape(self.channels, -1)[:, 0]

    def restart(self, state: int, sharing: str, separate_dt: bool | None = None) -> DSS:
        """A new layer with `state` modes and random W from Skew-HiPPO.

        Version, steps (or the first of separate ones) and D are those of this one.
        """
        separate = self.separate_dt if separate_dt is None else separate_dt
        layer = DSS(
            self.channels, state, self.version, sharing, length=self.length, separate_dt=separate
        ).to(self.W.device)
        with torch.no_grad():
            same = separate == self.separate_dt
            layer.log_dt.copy_(self.log_dt if same else self.log_dt[:, 0])
            layer.D.copy_(self.D)
        return layer

    @classmethod
    def from_lti(cls, system: DiagonalLTI, like: DSS) -> DSS:
        """A layer with the poles and residues of `system` (continuous, (H, r)).

        Version, steps (the first of separate ones) and D are those of `like`. Poles that are equal
        in all channels are stored once; a feedthrough is added to D.
        Raises ValueError if the shapes or the kind do not fit, UnstableSystem if the exp version,
        whose poles are stable by construction, is given a pole that is not.
        """
        if system.dt is not None or len(system.batch) != 1 or len(system.poles) != like.channels:
            raise ValueError(
                f"a DSS layer of {like.channels} channels needs a continuous system with poles "
                f"({like.channels}, r), not {tuple(system.poles.shape)} with step {system.dt}"
            )
        if like.version == "exp":
            system.require_stable("the exp version of DSS")
        tied = torch.equal(system.poles, system.poles[:1].expand_as(system.poles))
        # the random start is overwritten: leave the generator alone
        with torch.random.fork_rng(devices=[]):
            layer = like.restart(system.modes, "tied" if tied else "per-channel", False)
        with torch.no_grad():
            Lambda, W = system.poles[0] if tied else system.poles, system.residues
            if like.version == "softmax":
                assert like.length is not None
                W = W * torch.expm1(system.poles * like.dt()[:, None] * like.length)
            layer.Lambda_re.copy_(torch.log(-Lambda.real) if like.version == "exp" else Lambda.real)
            layer.Lambda_im.copy_(Lambda.imag)
            layer.W.copy_(torch.view_as_real(W))
            layer.D.copy_(like.D.double() + system.feedthrough)
        return layer
