"""Layers with several inputs and outputs, beside those who reduce them today: `make bench` writes
results/bench/mimo.csv and its figure.

One thread. The rivals work with dense matrices: complex ones where they can (SciPy), else the real
ones of order 2 N that do the same. The published reductions of LRU layers take the Gramians in
closed form and the eigenvalues of their product; they are written here as they are printed.
Values right: against arithmetic with 60 digits or more, of the Hermitian matrix Lp^H Q Lp.
"""

import importlib.metadata
import warnings

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import torch

from s4bt.reduction.layers import reduce_layer
from s4bt.reduction.multi import multi_hankel_singular_values
from s4bt.reduction.state_space import StateSpace
from s4bt.study.styles import save, use_style
from tests.benchmarks.common import (
    OUT,
    finish,
    row,
    seconds,
)  # first, because it sets the number of threads

DIGITS, RIGHT = 60, 1e-8
# what is timed: name -> (N, m, p, r)
SIZES = {"S5, 256 states": (256, 128, 128, 64), "LRU, 128 states": (128, 64, 64, 32)}


def ring(N, m, p, seed=0, least=0.9, largest=0.999):
    """An LRU layer as training starts: eigenvalues on a ring, Glorot weights, gamma."""
    rng = np.random.default_rng(seed)
    radius = np.sqrt(rng.uniform(least**2, largest**2, N))
    poles = radius * np.exp(1j * rng.uniform(0, np.pi, N))

    def draw(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    B = draw(N, m) / np.sqrt(2 * m) * np.sqrt(1 - radius[:, None] ** 2)
    return poles, B, draw(p, N) / np.sqrt(N)


def hard(kind, N, m, p, seed=0):
    """Systems on which squares and dense solvers lose digits."""
    poles, B, C = ring(N, m, p, seed)
    rng = np.random.default_rng(seed + 1)
    if kind == "clustered":
        poles = (
            0.95
            * np.exp(1j * (0.5 + 0.01 * rng.uniform(-1, 1, N)))
            * (1 - 0.002 * rng.uniform(size=N))
        )
    if kind == "scaled":
        B, C = B * np.logspace(-4, 4, m), C * np.logspace(4, -4, p)[:, None]
    if kind == "near-unobservable":
        B, C = B * np.logspace(-9, 0, N)[:, None], C * np.logspace(0, -9, N)
    return poles, B, C


def exact(poles, B, C):
    """Hankel singular values with DIGITS digits, as float64."""
    with mpmath.workdps(DIGITS + len(poles)):
        N = len(poles)
        x, b, c = (mpmath.matrix(part.tolist()) for part in (poles, B, C))
        bb, cc = b * b.H, c.H * c
        P, Q = mpmath.matrix(N, N), mpmath.matrix(N, N)
        for i in range(N):
            for j in range(N):
                P[i, j] = bb[i, j] / (1 - x[i] * mpmath.conj(x[j]))
                Q[i, j] = cc[i, j] / (1 - mpmath.conj(x[i]) * x[j])
        L = mpmath.cholesky(P)
        values = mpmath.eighe(L.H * Q * L, eigvals_only=True)
        return np.sort([float(mpmath.sqrt(abs(v))) for v in values])[::-1]


def own(poles, B, C, rank=None):
    if rank:
        return reduce_layer(poles, B, C, domain="discrete", rank=rank)[:3]
    return multi_hankel_singular_values(StateSpace(poles, B, C, dt=1.0)).numpy()


def published(poles, B, C, rank=None):
    """Gramians in closed form, eigenvalues and eigenvectors of P Q."""
    P = (B @ B.conj().T) / (1 - poles[:, None] * poles.conj())
    Q = (C.conj().T @ C) / (1 - poles.conj()[:, None] * poles)
    if not rank:
        return np.sort(np.sqrt(np.abs(np.linalg.eigvals(P @ Q))))[::-1]
    values, T = np.linalg.eig(P @ Q)
    order = np.argsort(-np.abs(values))[:rank]
    Z = np.linalg.inv(T)[order]
    T = T[:, order]
    small, X = np.linalg.eig(Z @ (poles[:, None] * T))
    return small, np.linalg.solve(X, Z @ B), C @ T @ X


def textbook(poles, B, C, rank=None):
    """Gramians in closed form, their Cholesky factors and the SVD.  Raises LinAlgError."""
    P = (B @ B.conj().T) / (1 - poles[:, None] * poles.conj())
    Q = (C.conj().T @ C) / (1 - poles.conj()[:, None] * poles)
    Lp, Lq = np.linalg.cholesky(P), np.linalg.cholesky(Q)
    U, sigma, Vh = np.linalg.svd(Lq.conj().T @ Lp)
    if not rank:
        return sigma
    T = Lp @ Vh[:rank].conj().T * sigma[:rank] ** -0.5
    Z = (Lq @ U[:, :rank] * sigma[:rank] ** -0.5).conj().T
    small, X = np.linalg.eig(Z @ (poles[:, None] * T))
    return small, np.linalg.solve(X, Z @ B), C @ T @ X


def embedded(poles, B, C):
    def pair(M):
        return np.block([[M.real, -M.imag], [M.imag, M.real]])

    return pair(np.diag(poles)), pair(B), pair(C)


def diagonal(A, B, C):
    """Complex (poles, B, C) of a real system that is an embedded complex one."""
    values, X = np.linalg.eig(A)
    return values, np.linalg.solve(X, B), C @ X


def python_control(poles, B, C, rank=None):
    import control

    A, B, C = embedded(poles, B, C)
    system = control.ss(A, B, C, np.zeros((len(C), B.shape[1])), True)
    if rank:
        small = control.balanced_reduction(system, 2 * rank, method="truncate")
        return diagonal(small.A, small.B, small.C)
    return np.array(control.hankel_singular_values(system))[::2]


def pymor(poles, B, C, rank=None):
    from pymor.core.logger import set_log_levels
    from pymor.models.iosys import LTIModel
    from pymor.reductors.bt import BTReductor

    set_log_levels({"pymor": "ERROR"})
    model = LTIModel.from_matrices(*embedded(poles, B, C), sampling_time=1)
    if rank:
        return diagonal(*BTReductor(model).reduce(2 * rank).to_matrices()[:3])
    return model.hsv()[::2]


def slycot(poles, B, C, rank=None):
    from slycot import ab09ad

    A, B, C = embedded(poles, B, C)
    nr, A, B, C, sigma = ab09ad(
        "D", "B", "N", len(A), B.shape[1], len(C), A, B, C, nr=2 * rank if rank else len(poles)
    )
    return diagonal(A[:nr, :nr], B[:nr], C[:, :nr]) if rank else sigma[::2]


TOOLS = {
    "s4bt": (None, own),
    "closed form + eigenvalues of P Q": (None, published),
    "closed form + Cholesky": (None, textbook),
    "python-control": ("control", python_control),
    "pyMOR": ("pymor", pymor),
    "slycot ab09ad": ("slycot", slycot),
}


def installed() -> dict:
    found = {}
    for name, (package, function) in TOOLS.items():
        try:
            found[f"{name} {importlib.metadata.version(package)}" if package else name] = function
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed and left out: pip install -e .[rivals]")
    return found


def worst_error(layer, small) -> float:
    """Largest H-infinity error seen: on a grid of frequencies with a point near every pole."""
    (a, B, C), (x, Br, Cr) = layer, small
    omega = np.concatenate([np.angle(a), np.linspace(-np.pi, np.pi, 400)])
    z = np.exp(-1j * omega)[:, None]

    def response(poles, B, C):
        return (C / (1 - poles * z)[:, None]) @ B

    # the embedded system holds the complex one in its first half of inputs, as u + i 0
    p, m = len(C), B.shape[1]
    cut = response(x, Br, Cr)
    if cut.shape[1] > p:
        cut = cut[:, :p, :m] + 1j * cut[:, p:, :m]
    return float(np.linalg.norm(response(a, B, C) - cut, 2, axis=(1, 2)).max())


def speed(rows: list[dict]) -> dict:
    took: dict = {}
    for size, (N, m, p, r) in SIZES.items():
        layer = ring(N, m, p)
        bound = 2 * own(*layer)[r:].sum()
        for name, tool in installed().items():
            what = f"{size}, m = {m}, p = {p}, to {r}, diagonalised: {name}"
            try:
                took[size, name] = seconds(lambda t=tool: t(*layer, r), 3 if name == "s4bt" else 1)
                share = worst_error(layer, tool(*layer, r)) / bound
            except Exception as failure:
                print(f"{what}: {type(failure).__name__}: {failure}")
                continue
            rows.append(row(what, took[size, name], "s"))
            rows.append(row(f"{what}: error over the bound", share, "ratio"))
        for name in installed():
            if name != "s4bt" and (size, name) in took:
                over = took[size, "s4bt"] / took[size, name]
                rows.append(row(f"{size}: s4bt's time over that of {name}", over, "ratio", 1.0))
    return took


def accuracy(rows: list[dict]) -> dict:
    found: dict = {}
    cases = [(kind, 32, m, p) for kind in KINDS for m, p in ((1, 4), (8, 8))]
    cases += [(kind, 128, 16, 16) for kind in KINDS]
    for kind, N, m, p in cases:
        layer = hard(kind, N, m, p)
        true = exact(*layer)
        for name, tool in installed().items():
            try:
                error = np.abs(np.asarray(tool(*layer))[:N] / true - 1)
            except Exception as failure:
                print(f"{kind}, {name}: {type(failure).__name__}: {str(failure)[:80]}")
                error = np.full(N, np.inf)
            found[f"{kind}, N = {N}, m = {m}", name] = share = float((error < RIGHT).mean())
            what = f"{kind}, N = {N}, m = {m}, p = {p}: values wrong by 1e-8 or more, {name}"
            limit = 0.0 if name == "s4bt" else None
            rows.append(row(what, 1 - share, "share", limit))
    return found


KINDS = ("ring", "clustered", "scaled", "near-unobservable")


def draw(took: dict, found: dict) -> None:
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(11, 3), width_ratios=(1, 1.6))
    names = [name for name in installed() if (next(iter(SIZES)), name) in took]
    for k, size in enumerate(SIZES):
        times = [took.get((size, name), np.nan) for name in names]
        at = np.arange(len(names)) + 0.4 * k
        axes[0].barh(at, times, 0.36, label=size, color=str(0.35 + 0.35 * k))
    axes[0].set_yticks(np.arange(len(names)) + 0.2, names, fontsize=7)
    axes[0].set(xscale="log", xlabel="seconds, one thread")
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=7)
    systems, tools = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    share = np.array([[found[system, tool] for system in systems] for tool in tools])
    axes[1].imshow(share, cmap="Greys_r", vmin=0, vmax=1.2, aspect="auto")
    for (i, j), value in np.ndenumerate(share):
        colour = "w" if value < 0.5 else "k"
        axes[1].text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=7)
    axes[1].set_xticks(range(len(systems)), systems, rotation=30, ha="right", fontsize=7)
    axes[1].set_yticks(range(len(tools)), tools, fontsize=7)
    axes[1].set_title("Hankel singular values right to 1e-8, %", fontsize=9)
    axes[1].grid(False)
    save(figure, OUT / "mimo.png")


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="slycot")
    rows: list[dict] = []
    took, found = speed(rows), accuracy(rows)
    draw(took, found)
    finish("mimo", rows)


if __name__ == "__main__":
    main()
