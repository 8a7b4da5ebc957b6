"""A cell on whole sequences at once, as a model answers, so that rounded cells can be tested.

The kernels are those of the arrays that the cell holds: whatever was rounded there counts here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4bt.deploy.cell import Cell, StepLayer
from s4bt.nn.convolution import convolve


def _exponents(layer: StepLayer) -> Tensor:
    """log of the decays as they are stored, complex (H, N)."""
    decay = torch.complex(layer.decay_re.double(), layer.decay_im.double())
    return torch.log(torch.where(decay == 0, 1e-30, decay))


def _reached(layer: StepLayer, v: Tensor) -> Tensor:
    """The largest real or imaginary part of each state, (H, N), on inputs v (B, L, H)."""
    decay = torch.complex(layer.decay_re, layer.decay_im)
    z = torch.zeros(v.shape[0], *decay.shape, dtype=decay.dtype, device=v.device)
    largest = torch.zeros(decay.shape, device=v.device)
    for t in range(v.shape[1]):
        z = decay * z + v[:, t, :, None]
        size = torch.maximum(z.real.abs(), z.imag.abs()).amax(0)
        largest = torch.maximum(largest, size)
    return largest


class Sequences(nn.Module):
    """x (B, L), or (B, 2, L), and lengths -> logits (B, classes), as `S4Model` answers.

    state_bits: of the numbers of the state, None for floats; feedback: whether what rounding left
    is added before the next step (error feedback; it has to be kept, too, here as floats). With
    rounded states it goes step by step, and codes are spread over what states reach on
    `calibration`, training examples x, or (x, lengths).
    Raises ValueError for bits without them.
    """

    def __init__(
        self,
        cell: Cell,
        state_bits: int | None = None,
        feedback: bool = False,
        calibration: Tensor | tuple[Tensor, Tensor | None] | None = None,
    ):
        super().__init__()
        self.cell, self.state_bits, self.feedback = cell, None, feedback
        self.largest: dict[StepLayer, Tensor] = {}
        if state_bits is None:
            return
        if calibration is None:
            raise ValueError("states in bits need calibration, training examples")
        self.measuring = True
        given = calibration if isinstance(calibration, tuple) else (calibration, None)
        self(*given)
        self.measuring, self.state_bits = False, state_bits

    measuring = False

    def _layer(self, layer: StepLayer, u: Tensor) -> Tensor:
        v = layer.norm(u) if layer.prenorm else u
        if self.measuring:
            self.largest[layer] = _reached(layer, v)
        if self.state_bits is None:
            w = torch.complex(layer.w_re, layer.w_im)
            rows = v.permute(2, 0, 1).contiguous()  # (H, B, L)
            y = convolve(rows, _exponents(layer), w, layer.D).permute(1, 2, 0)
        else:
            y = self._stepwise(layer, v)
        out = u + F.gelu(y) @ layer.mix.mT + layer.bias
        return out if layer.prenorm else layer.norm(out)

    def _stepwise(self, layer: StepLayer, v: Tensor) -> Tensor:
        """The recurrence with states of so many bits; every mode has a scale of its own."""
        assert self.state_bits is not None
        decay = torch.complex(layer.decay_re, layer.decay_im)
        w = torch.complex(layer.w_re, layer.w_im)
        most = 2 ** (self.state_bits - 1) - 1
        largest = self.largest[layer]
        step = torch.where(largest > 0, largest, 1) / most
        z = torch.zeros(v.shape[0], *decay.shape, dtype=decay.dtype, device=v.device)
        left, found = torch.zeros_like(z), []
        for t in range(v.shape[1]):
            exact = decay * (z + left) + v[:, t, :, None]
            codes = torch.complex((exact.real / step).round(), (exact.imag / step).round())
            z = torch.complex(codes.real.clamp(-most, most), codes.imag.clamp(-most, most)) * step
            if self.feedback:
                left = exact - codes * step
            found.append((w * z).sum(-1).real + layer.D * v[:, t])
        return torch.stack(found, 1)

    def features(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Pooled features (B, H) of one document each."""
        cell = self.cell
        u = cell.encode(x.flatten()).unflatten(0, x.shape)  # (B, L, H)
        for layer in cell.layers:
            u = self._layer(layer, u)
        u = cell.norm(u)
        if lengths is None:
            return u.mean(1) if cell.mean else u[:, -1]
        if not cell.mean:
            return u[torch.arange(len(u)), lengths - 1]
        inside = torch.arange(u.shape[1], device=u.device) < lengths[:, None]
        return (u * inside[..., None]).sum(1) / lengths[:, None]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        cell = self.cell
        if cell.documents == 1:
            return cell.answer(self.features(x, lengths))
        both = self.features(x.flatten(0, 1), None if lengths is None else lengths.flatten())
        return cell.answer(*both.unflatten(0, (-1, 2)).unbind(1))
