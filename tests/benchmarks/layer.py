"""Speed of one DSS layer with its GELU and mixing, forward and backward: `make bench` writes
results/bench/layer.csv and layer.png.

s4bt       the layer of the product
formula    the published kernel, exponentials of shape (H, N, L), written plainly, autograd
floor      the same layer with a kernel that is given and wants a gradient, plain autograd: the
           convolution alone
copy       writing a tensor of the layer's input once, for the bandwidth

Everything else in the layer is the same code, and all run in turn in one process. With an
accelerator (python tests/benchmarks/layer.py) it measures that and writes layer-cuda.csv; the
limits are for the CPU. --tiny: small shapes, to try the script.
"""

import argparse
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from s4bt.nn import convolution
from s4bt.nn.convolution import ChunkedConvolution, FFTConvolution
from s4bt.nn.dss import DSS
from s4bt.reduction.powers import power_sum
from s4bt.study.styles import save, use_style
from tests.benchmarks.common import (
    OUT,
    finish,
    row,
    side_by_side,
)  # first, because it sets the number of threads

SHAPES = {
    (32, 1024, 64, 64): (3, 1.0),
    (16, 2048, 128, 64): (5, 1.0),
    (8, 1024, 256, 64): (8, 1.0),
    (32, 128, 32, 64): (None, 1.5),
}
RANKS = (2, 4, 8, 16, 32, 64)
PASSES = 10  # tensors of the input's size that forward and backward must at least read or write


def formula(dss: DSS, L: int):
    """K (H, L) of Gupta et al. 2022, prop. 1, as published: all (H, N, L) exponentials."""
    a = dss.Lambda() * torch.exp(dss.log_dt)[:, None]
    w = torch.view_as_complex(dss.W) * (torch.exp(a) - 1) / dss.Lambda()
    return (w[..., None] * torch.exp(a[..., None] * torch.arange(L, device=a.device))).sum(1).real


def plainly(u, K):
    """K * u for u (H, B, L) by FFT, autograd."""
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(K, n)[:, None], n)[
        ..., : u.shape[-1]
    ]


class Layers:
    """The three layers on the same input (H, B, L); each call does forward and backward."""

    def __init__(self, B: int, L: int, H: int, N: int, device: torch.device):
        torch.manual_seed(0)
        self.dss, self.mix = DSS(H, N).to(device), torch.nn.Linear(H, H).to(device)
        self.u, self.K = (
            torch.randn(H, B, L, device=device),
            torch.randn(H, L, device=device).requires_grad_(),
        )
        self.g = torch.randn(H, B * L, device=device)
        self.leaves = [
            *self.dss.parameters(),
            *self.mix.parameters(),
            self.K,
            self.u.requires_grad_(),
        ]

    def run(self, y) -> None:
        v = torch.addmm(self.mix.bias[:, None], self.mix.weight, F.gelu(y).flatten(1))
        for leaf in self.leaves:
            leaf.grad = None
        v.backward(self.g)

    def s4bt(self) -> None:
        self.run(self.dss(self.u.transpose(0, 1)).transpose(0, 1))

    def formula(self) -> None:
        self.run(
            plainly(self.u, formula(self.dss, self.u.shape[-1]))
            + self.dss.D[:, None, None] * self.u
        )

    def floor(self) -> None:
        self.run(plainly(self.u, self.K) + self.dss.D[:, None, None] * self.u)

    def copy(self) -> None:
        self.u.detach().clone()


def shapes(rows: list[dict], device: torch.device, table: dict) -> dict[str, dict[str, float]]:
    found = {}
    for threads in (1, 2) if device.type == "cpu" else (None,):
        if threads:
            torch.set_num_threads(threads)
        for (B, L, H, N), (times, over) in table.items():
            layers = Layers(B, L, H, N, device)
            took = side_by_side(
                {name: getattr(layers, name) for name in ("s4bt", "formula", "floor", "copy")}, 7
            )
            name = f"(B, L, H, N) = ({B}, {L}, {H}, {N})" + (
                f", {threads} thread{'s' * (threads > 1)}" if threads else ""
            )
            rows += [row(f"{name}: {what}", 1000 * value, "ms") for what, value in took.items()]
            rows.append(
                row(
                    f"{name}: time over that of the formula",
                    took["s4bt"] / took["formula"],
                    "ratio",
                    1 / times if times else None,
                )
            )
            rows.append(
                row(
                    f"{name}: time over that of the floor",
                    took["s4bt"] / took["floor"],
                    "ratio",
                    over,
                )
            )
            moved = 4 * B * L * H / 1e9
            rows.append(
                row(
                    f"{name}: bandwidth, {PASSES} passes over the input",
                    PASSES * moved / took["s4bt"],
                    "GB/s",
                )
            )
            rows.append(row(f"{name}: bandwidth of a copy", 2 * moved / took["copy"], "GB/s"))
            found[name] = took
    return found


def ranks(
    rows: list[dict], device: torch.device, table: list[tuple]
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds against the number of modes: both convolutions, kernel and all, and the layer,
    which chooses.
    """
    torch.set_num_threads(1)
    found = {}
    for B, L, H in table:
        name, curves = (
            f"(B, L, H) = ({B}, {L}, {H})",
            {"FFT": [], "chunks": [], "FFT, forward": [], "chunks, forward": [], "layer": []},
        )
        for N in RANKS:
            layers = Layers(B, L, H, N, device)
            a, w, _ = layers.dss._discrete()
            a, w, D = a.detach().requires_grad_(), w.detach().requires_grad_(), layers.dss.D

            def fft():
                return FFTConvolution.apply(layers.u, power_sum(a, w, L), D)

            def chunks():
                return ChunkedConvolution.apply(layers.u, a, w, D)

            g = torch.randn_like(layers.u)
            with torch.no_grad():
                took = side_by_side({"FFT, forward": fft, "chunks, forward": chunks}, 5)
            took |= side_by_side(
                {
                    "FFT": lambda: fft().backward(g),
                    "chunks": lambda: chunks().backward(g),
                    "layer": layers.s4bt,
                },
                5,
            )
            for what, values in curves.items():
                values.append(1000 * took[what])
                rows.append(row(f"{name}, N = {N}: {what}", 1000 * took[what], "ms"))
        if device.type == "cpu":
            for N in (2, 4, 8, 16):
                chosen = "chunks" if convolution.in_chunks(L, N) else "FFT"
                best = min(curves["FFT"][RANKS.index(N)], curves["chunks"][RANKS.index(N)])
                rows.append(
                    row(
                        f"{name}, N = {N}: chosen convolution over the better one",
                        curves[chosen][RANKS.index(N)] / best,
                        "ratio",
                        1.15,
                    )
                )
            rows.append(
                row(
                    f"{name}: layer with 8 modes over the one with 64",
                    curves["layer"][2] / curves["layer"][-1],
                    "ratio",
                    0.8,
                )
            )
        found[name] = curves
    return found


def compiled(rows: list[dict], device: torch.device, shape: tuple) -> None:
    """torch.compile of the floor and of the layer: what it takes once, and what it gives."""
    layers = Layers(*shape, device)
    for name in ("floor", "s4bt"):
        torch._dynamo.reset()
        method, start = torch.compile(getattr(layers, name)), time.perf_counter()
        try:
            method()

        except Exception as error:
            print(
                f"torch.compile of {name} fails: {type(error).__name__}: "
                f"{str(error).splitlines()[0]}"
            )
            continue
        rows.append(
            row(f"torch.compile, {shape}, {name}: first call", time.perf_counter() - start, "s")
        )
        took = side_by_side({"compiled": method, "eager": getattr(layers, name)}, 7)
        rows.append(
            row(
                f"torch.compile, {shape}, {name}: compiled over eager",
                took["compiled"] / took["eager"],
                "ratio",
            )
        )


def draw(found: dict, curves: dict, path) -> None:
    use_style()
    figure, axes = plt.subplots(1, 1 + len(curves), figsize=(4 + 3.4 * len(curves), 3.2))
    names = list(found)[:4]
    for i, (what, grey) in enumerate((("formula", "0.8"), ("floor", "0.55"), ("s4bt", "0.1"))):
        axes[0].barh(
            [j + 0.27 * (1 - i) for j in range(len(names))],
            [1000 * found[n][what] for n in names],
            0.25,
            color=grey,
            label=what,
        )
    axes[0].set_yticks(range(len(names)), [n.split("= ")[1].split(")")[0] + ")" for n in names])
    axes[0].set(xscale="log", xlabel="ms, forward and backward, one thread", ylabel="B, L, H, N")
    axes[0].legend(fontsize=7)
    for ax, (name, lines) in zip(axes[1:], curves.items()):
        for (what, values), marker, style in zip(
            lines.items(), "osos^", ("-", "-", ":", ":", "--")
        ):
            ax.loglog(RANKS, values, marker=marker, ls=style, ms=4, label=what)
        ax.set(xlabel="modes", ylabel="ms", title=name)
        ax.set_xticks(RANKS, RANKS)
        ax.minorticks_off()
        low, high = ax.get_ylim()
        ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100) if low < t < high]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes[1].legend(fontsize=6)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict] = []
    table = {(2, 64, 8, 16): (None, None)} if tiny else SHAPES
    if device.type == "cuda":
        table = dict.fromkeys(
            [*table, *([] if tiny else [(50, 2048, 128, 64), (64, 4096, 256, 64)])], (None, None)
        )
    found = shapes(rows, device, table)
    curves = ranks(rows, device, [(2, 64, 8)] if tiny else [(32, 1024, 64), (32, 256, 32)])
    compiled(rows, device, (2, 64, 8, 16) if tiny else (32, 1024, 64, 64))
    if tiny:
        return
    suffix = "" if device.type == "cpu" else "-cuda"
    draw(found, curves, OUT / f"layer{suffix}.png")
    finish(f"layer{suffix}", rows)


if __name__ == "__main__":
    main()
