"""A trained model as a stream: sample by sample, in real arithmetic, the classifier at any moment.

B         streams side by side
H, N_i    width, and the modes of layer i
x         (B,)        one token number, or one real sample, of each stream
state     (B, S)      real and imaginary parts of all modes of all layers, S = 2 H (N_1 + N_2 + ...)
pooled    (B, H)      mean of the features so far, or the last ones
count     (B, 1)      samples so far

One step of a layer is  z <- exp(a) z + u,  y = Re(w z) + D u,  GELU, mixing, and the sum with what
came in. A batch norm is a scale and a shift by then. ONNX and C files are made from this module,
and compute what it does.  (the recurrence of a DSS layer: Gupta et al. 2022)
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4bt.files import UserError
from s4bt.nn.norms import BatchNorm, ChannelNorm
from s4bt.nn.s4 import Block, S4Model


class Affine(nn.Module):
    """A batch norm in evaluation: scale and shift (H,)."""

    def __init__(self, norm: BatchNorm):
        super().__init__()
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None and var is not None
        scale = norm.weight.detach() * torch.rsqrt(var + norm.eps)
        self.scale, self.shift = nn.Buffer(scale), nn.Buffer(norm.bias.detach() - mean * scale)

    def forward(self, u: Tensor) -> Tensor:
        return u * self.scale + self.shift


class Normalised(nn.Module):
    """A layer norm over the channels of one sample: scale and shift (H,), eps."""

    def __init__(self, norm: ChannelNorm):
        super().__init__()
        self.scale = nn.Buffer(norm.norm.weight.detach())
        self.shift = nn.Buffer(norm.norm.bias.detach())
        self.eps = norm.norm.eps

    def forward(self, u: Tensor) -> Tensor:
        centred = u - u.mean(-1, keepdim=True)
        spread = torch.sqrt(centred.square().mean(-1, keepdim=True) + self.eps)
        return centred / spread * self.scale + self.shift


def step_norm(norm: nn.Module) -> nn.Module:
    """A norm of the model as it acts on one sample (B, H)."""
    if isinstance(norm, BatchNorm):
        return Affine(norm)
    return Normalised(norm) if isinstance(norm, ChannelNorm) else nn.Identity()


class StepLayer(nn.Module):
    """One block: log_decay, angle, w_re, w_im (H, N), D (H,), mix (H, H), bias (H,), norm."""

    def __init__(self, block: Block):
        super().__init__()
        a, w, growing = block.dss._discrete()
        if growing is not None and bool(growing.any()):
            raise UserError(
                f"{int(growing.sum())} poles of a softmax layer grow: it has no recurrence that "
                "lasts. Train with version 'exp'."
            )
        a = a.detach()
        self.log_decay, self.angle = nn.Buffer(a.real.clone()), nn.Buffer(a.imag.clone())
        self.w_re, self.w_im = (
            nn.Buffer(w.detach().real.clone()),
            nn.Buffer(w.detach().imag.clone()),
        )
        self.D = nn.Buffer(block.dss.D.detach().clone())
        self.mix = nn.Buffer(block.mix.weight.detach().clone())
        self.bias = nn.Buffer(block.mix.bias.detach().clone())
        self.norm, self.prenorm = step_norm(block.norm), block.prenorm
        self.refresh()

    def refresh(self) -> None:
        """Compute the decays again, after logarithms or angles were changed."""
        size = torch.exp(self.log_decay)
        kind = self.w_re.dtype
        self.decay_re = nn.Buffer((size * torch.cos(self.angle)).to(kind), persistent=False)
        self.decay_im = nn.Buffer((size * torch.sin(self.angle)).to(kind), persistent=False)

    @property
    def numbers(self) -> int:
        """Of the state: 2 H N."""
        return 2 * self.w_re.numel()

    def forward(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, H), state (B, 2 H N) -> the same of the next step."""
        H, N = self.w_re.shape
        z = state.reshape(-1, 2, H, N)
        re, im = z[:, 0], z[:, 1]
        v = self.norm(u) if self.prenorm else u
        new_re = self.decay_re * re - self.decay_im * im + v[..., None]
        new_im = self.decay_re * im + self.decay_im * re
        y = (self.w_re * new_re - self.w_im * new_im).sum(-1) + self.D * v
        out = u + F.gelu(y) @ self.mix.mT + self.bias
        out = out if self.prenorm else self.norm(out)
        return out, torch.stack([new_re, new_im], 1).reshape(-1, 2 * H * N)


class Cell(nn.Module):
    """One step of a whole model with one document; `answer` at any moment.

    The model itself is left as it is. Raises UserError for a layer whose recurrence does not last
    (softmax, with growing poles), and for numbers that are not finite.
    """

    def __init__(self, model: S4Model):
        super().__init__()
        model = copy.deepcopy(model).eval()
        encoder = model.encoder
        self.options: dict[str, Any] = model.options()
        if model.vocabulary:
            self.table = nn.Buffer(encoder.weight.detach().clone())  # (vocabulary, H)
        else:
            self.gain = nn.Buffer(encoder.weight.detach()[:, 0].clone())  # (H,)
            self.offset = nn.Buffer(encoder.bias.detach().clone())
        self.layers = nn.ModuleList(StepLayer(block) for block in model.layers())
        self.norm = step_norm(model.norm)
        self.head = model.head
        self.documents, self.mean = model.documents, model.pooling == "mean"
        self.width = model.width
        for name, x in [*self.named_buffers(), *self.named_parameters()]:
            if not bool(x.isfinite().all()):
                raise UserError(f"{name} of the model holds numbers that are not finite")

    @property
    def numbers(self) -> int:
        """S."""
        return sum(layer.numbers for layer in self.layers)

    def start(self, streams: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """state, pooled and count before the first sample."""
        kind = self.layers[0].w_re
        return (
            kind.new_zeros(streams, self.numbers),
            kind.new_zeros(streams, self.width),
            kind.new_zeros(streams, 1),
        )

    def encode(self, x: Tensor) -> Tensor:
        """(B,) -> (B, H)."""
        return self.table[x] if hasattr(self, "table") else x[:, None] * self.gain + self.offset

    def forward(
        self, x: Tensor, state: Tensor, pooled: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """features (B, H) of the sequence so far, state, pooled and count."""
        u, parts, at = self.encode(x), [], 0
        for layer in self.layers:
            u, part = layer(u, state[:, at : at + layer.numbers])
            parts.append(part)
            at += layer.numbers
        u, count = self.norm(u), count + 1
        pooled = pooled + (u - pooled) / count if self.mean else u
        return pooled, torch.cat(parts, 1), pooled, count

    def answer(self, *features: Tensor) -> Tensor:
        """Logits (B, classes) of one document's features, or of two documents'."""
        if self.documents == 1:
            return self.head(features[0])
        a, b = features
        return self.head(torch.cat([a, b, a - b, a * b], -1))


class StepModel(nn.Module):
    """A `Cell` of one document whose first output is the logits."""

    def __init__(self, cell: Cell):
        super().__init__()
        self.cell = cell

    def forward(
        self, x: Tensor, state: Tensor, pooled: Tensor, count: Tensor
    ) -> tuple[Tensor, ...]:
        features, *rest = self.cell(x, state, pooled, count)
        return self.cell.answer(features), *rest


def multiply_adds(cell: Cell) -> int:
    """Of a step, without norms and the answer: 4 for a pole, 2 for its weight, H for mixing.

    In floats; 8-bit weights are multiplied by their scale, too.
    """
    each = [6 * layer.w_re.numel() + layer.D.numel() + layer.mix.numel() for layer in cell.layers]
    return sum(each) + (0 if hasattr(cell, "table") else cell.width)
