"""Layers with several inputs and outputs, beside those who reduce them today: `make bench` writes
results/bench/mimo.csv and its figure.

One thread. LRU and S5 layers put out the real part, so what is timed is the real system of order
2 N: as real matrices for tools that take them, as conjugate pairs for formulas with complex ones.
The complex system (poles, B, C) by itself is timed, too. The published reductions of LRU layers
take the Gramians in closed form and the eigenvalues of their product, written here as printed.
Values right: of complex systems, against arithmetic with 60 digits or more of Lp^H Q Lp.
"""

import functools
import importlib.metadata
import itertools
import warnings

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import torch

from s4bt.reduction.layers import reduce_layer
from s4bt.reduction.multi import multi_hankel_singular_values
from s4bt.reduction.state_space import StateSpace
from s4bt.study.styles import save, use_style
from tests.benchmarks.common import OUT, finish, row, side_by_side

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


def own(poles, B, C, rank=None, real=False):
    if rank:
        return reduce_layer(poles, B, C, domain="discrete", rank=rank, real=real)
    return multi_hankel_singular_values(StateSpace(poles, B, C, dt=1.0, real=real)).numpy()


def pairs(formula):
    """A formula for complex systems, given the conjugate-closed one where the output is real."""

    def of(poles, B, C, rank=None, real=False):
        if not real:
            return formula(poles, B, C, rank)
        poles, B, C = np.r_[poles, poles.conj()], np.r_[B, B.conj()], np.c_[C, C.conj()] / 2
        return formula(poles, B, C, 2 * rank if rank else None)

    return of


@pairs
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


@pairs
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


def matrices(poles, B, C, real):
    """Real (A, B, C): of Re(y), or of a complex system as two inputs and outputs for each."""

    def pair(M):
        return np.block([[M.real, -M.imag], [M.imag, M.real]])

    if real:
        return pair(np.diag(poles)), np.r_[B.real, B.imag], np.c_[C.real, -C.imag]
    return pair(np.diag(poles)), pair(B), pair(C)


def values(sigma, real):
    """A complex system's appear twice."""
    return np.asarray(sigma) if real else np.asarray(sigma)[::2]


def diagonal(A, B, C):
    poles, X = np.linalg.eig(A)
    return poles, np.linalg.solve(X, B), C @ X


def python_control(poles, B, C, rank=None, real=False):
    import control

    if rank:  # control.balanced_reduction takes every system for a continuous one
        raise NotImplementedError("python-control reduces continuous systems only")
    A, B, C = matrices(poles, B, C, real)
    system = control.ss(A, B, C, np.zeros((len(C), B.shape[1])), True)
    return values(control.hankel_singular_values(system), real)


def pymor(poles, B, C, rank=None, real=False):
    from pymor.core.logger import set_log_levels
    from pymor.models.iosys import LTIModel
    from pymor.reductors.bt import BTReductor

    set_log_levels({"pymor": "ERROR"})
    model = LTIModel.from_matrices(*matrices(poles, B, C, real), sampling_time=1)
    if rank:
        A, B, C, _, E = BTReductor(model).reduce(2 * rank).to_matrices()
        if E is not None:
            A, B = np.linalg.solve(E, A), np.linalg.solve(E, B)
        return diagonal(A, B, C)
    return values(model.hsv(), real)


def slycot(poles, B, C, rank=None, real=False):
    from slycot import ab09ad

    A, B, C = matrices(poles, B, C, real)
    order = 2 * rank if rank else len(A)
    nr, A, B, C, sigma = ab09ad("D", "B", "N", len(A), B.shape[1], len(C), A, B, C, nr=order)
    return diagonal(A[:nr, :nr], B[:nr], C[:, :nr]) if rank else values(sigma, real)


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


def worst_error(layer, small, real, poles_in_pairs) -> float:
    """Largest H-infinity error seen: on a grid of frequencies with a point near every pole."""
    (a, B, C), (x, Br, Cr) = layer, small
    omega = np.concatenate([np.angle(a), -np.angle(a), np.linspace(-np.pi, np.pi, 400)])

    def response(poles, B, C):
        return (C / (1 - poles * np.exp(-1j * omega)[:, None])[:, None]) @ B

    def of_real_part(poles, B, C):
        return (response(poles, B, C) + response(poles.conj(), B.conj(), C.conj())) / 2

    p, m = len(C), B.shape[1]
    whole = (of_real_part if real else response)(a, B, C)
    cut = (response if poles_in_pairs or not real else of_real_part)(x, Br, Cr)
    if cut.shape[1] > p:  # inputs and outputs in two parts, of which u + i 0 is the first
        cut = cut[:, :p, :m] + 1j * cut[:, p:, :m]
    return float(np.linalg.norm(whole - cut, 2, axis=(1, 2)).max())


def speed(rows: list[dict]) -> dict:
    took: dict = {}
    for (size, (N, m, p, r)), real in itertools.product(SIZES.items(), (True, False)):
        layer, kind = ring(N, m, p), "Re(y)" if real else "complex y"
        bound = 2 * own(*layer, real=real)[2 * r if real else r :].sum()
        runs, shares = {}, {}
        for name, tool in installed().items():
            try:
                small = tool(*layer, r, real)
            except Exception as failure:
                print(f"{size}, {kind}, {name}: {type(failure).__name__}: {failure}")
                continue
            shares[name] = worst_error(layer, small[:3], real, name != "s4bt") / bound
            runs[name] = functools.partial(tool, *layer, r, real)
        for name, best in side_by_side(runs).items():
            what = f"{size}, {kind}, m = {m}, p = {p}, to {r}, diagonalised: {name}"
            took[f"{size}, {kind}", name] = best
            rows.append(row(what, best, "s"))
            rows.append(row(f"{what}: error over the bound", shares[name], "ratio"))
        for name in runs:
            if name != "s4bt":
                over = took[f"{size}, {kind}", "s4bt"] / took[f"{size}, {kind}", name]
                what = f"{size}, {kind}: s4bt's time over that of {name}"
                rows.append(row(what, over, "ratio", 1.0 if real else None))
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
    sizes = list(dict.fromkeys(size for size, _ in took))
    names = list(dict.fromkeys(name for _, name in took))
    for k, size in enumerate(sizes):
        times = [took.get((size, name), np.nan) for name in names]
        at = np.arange(len(names)) + 0.2 * k
        axes[0].barh(at, times, 0.18, label=size, color=str(0.2 + 0.2 * k))
    axes[0].set_yticks(np.arange(len(names)) + 0.3, names, fontsize=7)
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
