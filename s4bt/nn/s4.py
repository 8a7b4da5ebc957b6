"""The S4 classifier with DSS layers, and the truncation of a whole model.

B, L      batch, sequence length;  H  width;  N  complex modes per channel
x         (B, L) token numbers or real samples, (B, 2, L) for two documents
lengths   (B,) or (B, 2): samples before the padding, None when nothing is padded

A block is  u + dropout(Linear(GELU(DSS(u)))),  with a norm before the DSS layer or after the sum.  (Gupta et al. 2022)
"""
from __future__ import annotations

import copy
import json
from dataclasses import replace
from numbers import Integral
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from s4bt.balance import check_rank
from s4bt.dss import DSS, STATE_SPACE
from s4bt.errors import error_row, reference
from s4bt.files import UserError, atomic_path
from s4bt.lti import UnstableSystem
from s4bt.reducers import reduce

ROUNDING = 2.0**-22     # relative error that storing and evaluating a kernel in float32 may add; fits take it into account


def _rows(u: Tensor) -> Tensor:
    """(B, H, L) as (H, B L): with batch norm the layout in memory of all that passes through the blocks, so that nothing is copied."""
    return u.transpose(0, 1).flatten(1)


def _sequences(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_rows`, (B, H, L) of the batch and length of `like`."""
    return rows.view(-1, len(like), like.shape[-1]).transpose(0, 1)


class SumOverProcesses(torch.autograd.Function):
    """Sum of x over the processes of `torch.distributed`; so is its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return SumOverProcesses.forward(None, grad)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the channels of (B, H, L); with `torch.distributed` over the batches of all processes."""

    def forward(self, u: Tensor) -> Tensor:
        x = _rows(u)
        if not (self.training and distributed.is_initialized()):
            return _sequences(super().forward(x[None])[0], u)
        total = SumOverProcesses.apply
        *sums, size = total(torch.cat([x.sum(1), x.new_tensor([x.shape[1]])])).split([len(x), 1])
        mean = sums[0] / size
        centred = x - mean[:, None]
        var = total(centred.square().sum(1)) / size
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * size / (size - 1), self.momentum)
        return _sequences(torch.addcmul(self.bias[:, None], centred, (self.weight * torch.rsqrt(var + self.eps))[:, None]), u)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, H, L)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, u: Tensor) -> Tensor:
        return self.norm(u.mT).mT


class Block(nn.Module):
    """One S4 block, (B, H, L) -> (B, H, L); see the module's glossary."""

    def __init__(self, dss: DSS, norm: str, prenorm: bool, dropout: float):
        super().__init__()
        H = dss.channels
        self.dss, self.prenorm = dss, prenorm
        self.mix = nn.Linear(H, H)
        self.norm = BatchNorm(H) if norm == "batch" else ChannelNorm(H)
        self.dropout = nn.Dropout(dropout)

    def dss_input(self, u: Tensor) -> Tensor:
        """What the DSS layer receives."""
        return self.norm(u) if self.prenorm else u

    def forward(self, u: Tensor) -> Tensor:
        v = F.gelu(self.dss(self.dss_input(u)))
        v = u + self.dropout(_sequences(torch.addmm(self.mix.bias[:, None], self.mix.weight, _rows(v)), u))
        return v if self.prenorm else self.norm(v)


class S4Model(nn.Module):
    """Encoder, blocks, pooling and a linear head: x -> logits (B, classes).

    vocabulary: number of tokens, or 0 for real samples; classes: of the output; documents: 2 for pairs, whose features
    a, b enter the head as [a, b, a - b, a * b]; layers, width, state: depth, H and N (one N, or one for every layer);
    norm: "batch" or "layer", before the DSS layer if prenorm; pooling: "mean" or "last"; length: for the softmax version.
    The other arguments are those of `DSS`.
    """

    def __init__(self, vocabulary: int, classes: int, documents: int = 1, layers: int = 2, width: int = 32,
                 state: int | list[int] = 64, version: str = "exp", poles: str | list[str] = "tied", norm: str = "layer",
                 prenorm: bool = True, pooling: str = "mean", dropout: float = 0.0, dt_min: float = 1e-3,
                 dt_max: float = 1e-1, length: int | None = None, steps: str = "one"):
        super().__init__()
        self.options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if norm not in ("batch", "layer") or pooling not in ("mean", "last") or documents not in (1, 2):
            raise ValueError(f"norm is 'batch' or 'layer', pooling 'mean' or 'last', documents 1 or 2; "
                             f"got {norm!r}, {pooling!r}, {documents!r}")
        states = [state] * layers if isinstance(state, int) else state
        kinds = [poles] * layers if isinstance(poles, str) else poles
        self.documents, self.pooling = documents, pooling
        self.encoder = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(1, width)
        self.blocks = nn.ModuleList(
            Block(DSS(width, N, version, kind, dt_min, dt_max, length, steps), norm, prenorm, dropout)
            for N, kind in zip(states, kinds, strict=True))
        self.norm = (BatchNorm(width) if norm == "batch" else ChannelNorm(width)) if prenorm else nn.Identity()
        self.head = nn.Linear(width, classes) if documents == 1 else nn.Sequential(
            nn.Linear(4 * width, width), nn.GELU(), nn.Linear(width, classes))

    def encode(self, x: Tensor) -> Tensor:
        """Encoded sequences (B, H, L) of one document each, in memory (H, B, L)."""
        return self.encoder(x if isinstance(self.encoder, nn.Embedding) else x[..., None]).permute(2, 0, 1).contiguous().transpose(0, 1)

    @torch.no_grad()
    def input_spectra(self, x: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """`spectrum` of what every DSS layer receives, documents one by one, in evaluation mode."""
        quiet = copy.deepcopy(self).eval()
        u, found = quiet.encode(x), []
        for block in quiet.blocks:
            found.append(spectrum(block.dss_input(u), lengths))
            u = _through(block, u)
        return found

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Pooled features (B, H) of one document each."""
        u = self.encode(x)
        for block in self.blocks:
            u = block(u)
        u = self.norm(u)
        if lengths is None:
            return u.mean(-1) if self.pooling == "mean" else u[..., -1]
        if self.pooling == "last":
            return u.gather(-1, (lengths - 1)[:, None, None].expand(-1, u.shape[1], 1))[..., 0]
        mask = torch.arange(u.shape[-1], device=u.device) < lengths[:, None]
        return (u * mask[:, None]).sum(-1) / lengths[:, None]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, classes)."""
        if self.documents == 1:
            return self.head(self.features(x, lengths))
        f = self.features(x.flatten(0, 1), None if lengths is None else lengths.flatten())
        a, b = f.unflatten(0, (-1, 2)).unbind(1)
        return self.head(torch.cat([a, b, a - b, a * b], -1))

    def dss_layers(self) -> list[DSS]:
        """The DSS layers, input first."""
        return [block.dss for block in self.blocks]


def is_state_space(name: str) -> bool:
    """Whether a parameter name of S4Model belongs to a DSS layer."""
    return name.rsplit(".", 1)[-1] in STATE_SPACE and ".dss." in name


def count_parameters(model: S4Model) -> dict[str, int]:
    """Real numbers stored: {"total", "state_space"}; a complex one counts as two."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return {"total": sum(sizes.values()), "state_space": sum(n for name, n in sizes.items() if is_state_space(name))}


def with_layers(model: S4Model, layers: list[DSS]) -> S4Model:
    """A copy of the model with other DSS layers."""
    new = copy.deepcopy(model)
    for block, dss in zip(new.blocks, layers, strict=True):
        block.dss = dss
    new.options = dict(model.options, state=[d.state for d in layers], poles=[d.poles for d in layers], steps=layers[0].steps)
    return new


def with_dss_of(model: S4Model, source: S4Model) -> S4Model:
    """A copy of `model` whose DSS layers are those of `source`; everything else stays as it is in `model`."""
    return with_layers(model, copy.deepcopy(source.dss_layers()))


def with_skew_hippo(model: S4Model, rank: int, poles: str = "tied") -> S4Model:
    """A copy of the model whose DSS layers start again from Skew-HiPPO with `rank` modes: new poles and output weights.

    The steps dt, the feedthroughs D and everything outside the DSS layers stay as they are in `model`.
    """
    return with_layers(model, [dss.restart(rank, poles) for dss in model.dss_layers()])


def _calibration(model: S4Model, calibration) -> tuple[Tensor, Tensor | None]:
    """Sequences (B, L) and their lengths (B,) or None, from what `S4Model.forward` takes.  Raises ValueError if it does not fit."""
    x, lengths = calibration if isinstance(calibration, (tuple, list)) else (calibration, None)
    wanted = "(B, L)" if model.documents == 1 else "(B, 2, L)"
    if x.dim() != model.documents + 1 or (model.documents == 2 and x.shape[1] != 2) or x.shape[-1] < 2:
        raise ValueError(f"a calibration batch for this model has shape {wanted} with L >= 2, not {tuple(x.shape)}")
    if not len(x):
        raise ValueError(f"the calibration batch is empty: shape {tuple(x.shape)}")
    if lengths is not None and (lengths.shape != x.shape[:-1] or int(lengths.min()) < 1 or int(lengths.max()) > x.shape[-1]):
        raise ValueError(f"lengths of the calibration batch must have shape {tuple(x.shape[:-1])} and lie in 1..{x.shape[-1]}")
    tokens = isinstance(model.encoder, nn.Embedding)
    if tokens and (x.is_floating_point() or int(x.min()) < 0 or int(x.max()) >= model.encoder.num_embeddings):
        raise ValueError(f"this model reads token numbers 0..{model.encoder.num_embeddings - 1}; the calibration batch holds {x.dtype} from "
                         f"{float(x.min()):g} to {float(x.max()):g}")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{int((~torch.isfinite(x)).sum())} of {x.numel()} samples of the calibration batch are not finite")
    where = next(model.parameters()).device
    x, lengths = x.to(where), None if lengths is None else lengths.to(where)
    return (x.flatten(0, 1), None if lengths is None else lengths.flatten()) if model.documents == 2 else (x, lengths)


def _through(block: Block, u: Tensor) -> Tensor:
    """block(u), a few sequences at a time, because calibration batches are larger than those of training."""
    return torch.cat([block(part) for part in u.split(64)])


def spectrum(u: Tensor, lengths: Tensor | None = None) -> Tensor:
    """S (H, L + 1), float64: mean over the batch of |rfft(u, 2L)|^2 of the samples u (B, H, L) before the padding."""
    L, total = u.shape[-1], 0
    for start in range(0, len(u), 64):
        part = u[start:start + 64]
        if lengths is not None:
            part = part * (torch.arange(L, device=u.device) < lengths[start:start + 64, None])[:, None]
        total = total + torch.fft.rfft(part, 2 * L).abs().double().square().sum(0)
    return total / len(u)


@torch.no_grad()
def truncate(model: S4Model, rank, method: str = "bt-discrete", calibration=None, references: dict | None = None,
             **options) -> tuple[S4Model, list[dict]]:
    """Truncate every DSS layer with a method of `s4bt.reducers`; returns (new model, report with one row per layer).

    rank: modes to keep, one number, one per layer, or a rule of `s4bt.ranks`. calibration: sequences, as `S4Model.forward` takes them
    (never test data): x, or (x, lengths). Layers are reduced from the input on, and what a layer receives is measured behind the truncated
    ones before it. references: a dict that keeps, for the next rank with the same model and method, what does not depend on the rank.
    options: those of `s4bt.reducers.reduce`.

    A row holds layer, rank, and what `s4bt.errors.error_row` says of the new layer as it is stored, in float32: bound, lower limit (first
    discarded value), measured H-infinity, H2 and output errors.
    Raises ValueError if a rank is not in 1..N, the calibration does not fit or the method refuses the layer; UnstableSystem; both with
    the layer's number.
    """
    old = model.dss_layers()
    sequences = None if calibration is None else _calibration(model, calibration)
    ranks = rank
    if "dt" in options:
        raise ValueError("the steps are those of the layers; truncate takes no dt")
    if callable(rank):
        for number, dss in enumerate(old):
            if not bool(dss.to_lti().stable().all()):
                raise UnstableSystem(f"layer {number}: rank rules need strictly stable poles; give the ranks as numbers")
        spectra = None if sequences is None else model.input_spectra(*sequences)
        ranks = rank([dss.to_lti().discretize(dss.dt()) for dss in old], spectra)
    ranks = [ranks] * len(old) if isinstance(ranks, Integral) else list(ranks)
    if len(ranks) != len(old):
        raise ValueError(f"{len(ranks)} ranks for {len(old)} layers")
    new, report = with_layers(model, copy.deepcopy(old)).eval(), []
    u = None if sequences is None else new.encode(sequences[0])
    for number, (dss, r) in enumerate(zip(old, ranks)):
        try:
            r = int(r) if isinstance(r, Integral) and not isinstance(r, bool) else r
            check_rank(r, dss.state)
            given, system = dict(options), dss.to_lti()
            received = None if u is None else spectrum(new.blocks[number].dss_input(u), sequences[1])
            if method in ("h2", "weighted"):
                given.setdefault("rounding", ROUNDING)
            if method == "weighted":
                given.setdefault("spectrum", received)
            elif method == "bt-limited" and u is not None:
                given.setdefault("length", u.shape[-1])
            reduced = reduce(system, r, method, dss.dt(), **given)
            layer = DSS.from_lti(reduced, dss)
            stored = replace(layer.to_lti(), feedthrough=(layer.D - dss.D).double() if bool((layer.D != dss.D).any()) else None)
            if (known := (references if references is not None else {})).get((number, method)) is None:
                known[number, method] = reference(system, method, dss.dt())
            row = error_row(known[number, method], reduced, stored, dss.dt(), received)
        except UnstableSystem as error:
            raise UnstableSystem(f"layer {number}: {error}") from error
        except ValueError as error:
            raise ValueError(f"layer {number}: {error}") from error
        new.blocks[number].dss = layer
        report.append({"layer": number, "rank": r, **row})
        u = None if u is None else _through(new.blocks[number], u)
    for before, after in zip(model.modules(), new.modules()):
        after.training = before.training
    return with_layers(new, new.dss_layers()), report


def save_model(model: S4Model, path: Path) -> None:
    """Write weights and options as safetensors, whole or not at all."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"options": json.dumps(model.options, sort_keys=True)})


def load_model(path: Path) -> S4Model:
    """Read what `save_model` wrote.  Raises UserError, with the file and the remedy, if it is not that."""
    path = Path(path)
    remedy = "Run the stage that makes it again (dvc repro)."
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint. {remedy}")
    try:
        with safe_open(path, "pt") as file:
            options = json.loads((file.metadata() or {})["options"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a whole checkpoint of this project ({error}). {remedy}") from error
    with torch.random.fork_rng(devices=[]):
        model = S4Model(**options)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit the model they name. {remedy}\n{error}") from error
    return model
