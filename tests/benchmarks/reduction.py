"""How fast and how accurate the reduction is, beside the tools that control engineers use: `make
bench` writes results/bench/reduction.csv, accuracy.csv and their figures.

Everything on one thread, in one process but for the memory. The rivals are an optional extra (pip
install -e .[rivals]); a tool that is not installed is left out, and said; rivals are timed on 6 to
64 of the systems, one by one as they work, the best of three runs. A complex system of N modes is
given to them as the real one of order 2 N that does the same.
"""

import importlib.metadata
import json
import subprocess
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
import torch
from matplotlib.ticker import NullFormatter

from s4bt.files import ROOT
from s4bt.nn.dss import skew_hippo
from s4bt.reduction.balanced import balanced_truncation
from s4bt.reduction.gramians import hankel_singular_values
from s4bt.reduction.systems import DiagonalLTI
from s4bt.study.styles import save, use_style
from tests.benchmarks.common import (
    OUT,
    exponent,
    finish,
    row,
    seconds,
    write,
)  # first, because it sets the number of threads

LAYERS, CHANNELS, N, R = 6, 256, 64, 16


def trained_like(count: int, order: int, seed: int = 0) -> DiagonalLTI:
    """Continuous complex systems (count, order) whose poles are spread as training spreads those of
    Skew-HiPPO.
    """
    rng = np.random.default_rng(seed)
    poles = -0.5 * np.exp(0.7 * rng.normal(size=(count, order))) + 1j * skew_hippo(order).imag * (
        1 + 0.05 * rng.normal(size=(count, order))
    )
    return DiagonalLTI(
        torch.tensor(poles),
        torch.tensor(rng.normal(size=(count, order)) + 1j * rng.normal(size=(count, order))),
        real=False,
    )


def embedded(poles: np.ndarray, residues: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The real system of order 2 N, two inputs and two outputs that does what the complex one does;
    its Hankel values come twice.
    """

    def pair(M):
        return np.block([[M.real, -M.imag], [M.imag, M.real]])

    return pair(np.diag(poles)), pair(np.ones((len(poles), 1)) + 0j), pair(residues[None])


def closed_form(poles, residues, rank=None):
    """Gramians in closed form, NumPy's Cholesky and SVD: the textbook,
    without regard to clustering. Raises LinAlgError.
    """
    D = -(poles[:, None] + poles.conj())
    Lp, Lq = (
        np.linalg.cholesky(1 / D),
        np.linalg.cholesky(residues.conj()[:, None] * residues / D.conj()),
    )
    U, sigma, Vh = np.linalg.svd(Lq.conj().T @ Lp)
    if rank:
        scale = sigma[:rank] ** -0.5
        T, Z = Lp @ Vh[:rank].conj().T * scale, Lq @ U[:, :rank] * scale
        np.linalg.eig(Z.conj().T @ (poles[:, None] * T))
    return sigma


def scipy_lyapunov(poles, residues, rank=None):
    A, B, C = embedded(poles, residues)
    P = scipy.linalg.solve_continuous_lyapunov(A, -B @ B.T)
    Q = scipy.linalg.solve_continuous_lyapunov(A.T, -C.T @ C)
    return np.sort(np.sqrt(np.abs(np.linalg.eigvals(P @ Q))))[::-1][::2]


def python_control(poles, residues, rank=None):
    import control

    A, B, C = embedded(poles, residues)
    system = control.ss(A, B, C, np.zeros((2, 2)))
    if rank:
        return np.linalg.eig(control.balanced_reduction(system, 2 * rank, method="truncate").A)
    return np.array(control.hankel_singular_values(system))[::2]


def pymor(poles, residues, rank=None):
    from pymor.core.logger import set_log_levels
    from pymor.models.iosys import LTIModel
    from pymor.reductors.bt import BTReductor

    set_log_levels({"pymor": "ERROR"})
    model = LTIModel.from_matrices(*embedded(poles, residues))
    if rank:
        return np.linalg.eig(BTReductor(model).reduce(2 * rank).to_matrices()[0])
    return model.hsv()[::2]


def slycot(poles, residues, rank=None):
    from slycot import ab09ad

    A, B, C = embedded(poles, residues)
    _, A, _, _, sigma = ab09ad(
        "C", "B", "N", len(A), 2, 2, A, B, C, nr=2 * rank if rank else len(poles)
    )
    if rank:
        return np.linalg.eig(A)
    return sigma[::2]


RIVALS = {
    "python-control": ("control", python_control, 12),
    "pyMOR": ("pymor", pymor, 6),
    "slycot ab09ad": ("slycot", slycot, 12),
    "closed form + Cholesky, NumPy": (None, closed_form, 64),
}


def installed() -> dict:
    found = {}
    for name, (package, function, count) in RIVALS.items():
        try:
            version = importlib.metadata.version(package) if package else np.__version__
            found[f"{name} {version}"] = (function, count)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed and left out: pip install -e .[rivals]")
    return found


def memory() -> float:
    """Peak resident memory in MB of a fresh process that reduces all channels,
    as Linux says (ru_maxrss would count its parent, too).
    """
    code = (
        "import torch; torch.set_num_threads(1); from tests.benchmarks import reduction as r; "
        f"r.balanced_truncation(r.trained_like({LAYERS * CHANNELS}, {N}), {R}); "
        "print(open('/proc/self/status').read())"
    )
    status = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def speed(rows: list[dict]) -> dict[str, float]:
    systems = trained_like(LAYERS * CHANNELS, N)
    took = {"s4bt": seconds(lambda: balanced_truncation(systems, R))}
    M, A = (
        torch.randn(len(systems.poles), N, N, dtype=torch.complex128),
        torch.randn(len(systems.poles), R, R, dtype=torch.complex128),
    )
    took["LAPACK calls alone"] = seconds(
        lambda: (torch.linalg.svd(M), torch.linalg.svdvals(M), torch.linalg.eig(A))
    )
    poles, residues = systems.poles.numpy(), systems.residues.numpy()
    for name, (function, count) in installed().items():
        each = seconds(lambda: [function(poles[i], residues[i], R) for i in range(count)]) / count
        took[name] = each * len(poles)
    what = f"{LAYERS} x {CHANNELS} channels, N = {N} to {R}, diagonalised"
    for name, value in took.items():
        rows.append(row(f"{what}: {name}", value, "s"))
    limits = {"LAPACK calls alone": 2.0, "python-control": 0.2, "pyMOR": 1 / 30}
    for name in [n for n in took if n != "s4bt"]:
        limit = next((v for key, v in limits.items() if name.startswith(key)), None)
        rows.append(
            row(f"{what}: time over that of {name}", took["s4bt"] / took[name], "ratio", limit)
        )
    rows.append(row(f"{what}: peak memory of the process, PyTorch and all", memory(), "MB", 500))
    return took


def growth(rows: list[dict]) -> dict[str, tuple[list, list, float]]:
    """Seconds per system against N, and seconds against the number of systems,
    with exponents fitted to the upper half.
    """

    def discrete(count, order):
        s = trained_like(count, order)
        return DiagonalLTI(s.poles, s.residues, real=True).discretize(0.01)

    cases = {
        "complex, 16 systems, against N": (
            [16, 32, 64, 128, 256, 512],
            lambda n: (trained_like(16, n), 16),
        ),
        "discrete real, 16 systems, against N": (
            [16, 32, 64, 128, 256],
            lambda n: (discrete(16, n), 16),
        ),
        "complex, N = 64, against systems": (
            [16, 64, 256, 1024, 4096],
            lambda n: (trained_like(n, 64), 1),
        ),
    }
    curves = {}
    for name, (sizes, make) in cases.items():
        times = []
        for size in sizes:
            system, share = make(size)
            times.append(
                seconds(
                    lambda: balanced_truncation(system, min(8, system.modes // 2)),
                    2 if size < 256 else 1,
                )
                / share
            )
        curves[name] = (sizes, times, exponent(sizes, times))
        unit = "s" if name.endswith("systems") else "s each"
        rows += [
            row(f"balanced truncation, {name}: {size}", value, unit)
            for size, value in zip(sizes, times)
        ]
        rows.append(row(f"balanced truncation, {name}: exponent", curves[name][2], "power"))
    return curves


def accuracy() -> list[dict]:
    """Hankel singular values that are right to 1e-3 and to 1e-8,
    on the continuous systems of the tests' references.
    """
    tools = {
        "s4bt": lambda p, w: hankel_singular_values(
            DiagonalLTI(torch.tensor(p), torch.tensor(w), real=False)
        ).numpy(),
        "SciPy Lyapunov": scipy_lyapunov,
        **{name: function for name, (function, _) in installed().items()},
    }
    found = []
    for case in json.loads((ROOT / "tests" / "data" / "reference.json").read_text()):
        if case["discrete"] or len(case["poles"]) > 64:
            continue
        poles, residues, exact = (
            np.array(case[k]) @ (1, 1j) if k != "hsv" else np.array(case[k])
            for k in ("poles", "residues", "hsv")
        )
        for name, tool in tools.items():
            line = {"system": case["name"], "tool": name, "values": len(exact)}
            try:
                error = np.abs(np.asarray(tool(poles, residues))[: len(exact)] / exact - 1)
                line |= {
                    "right_to_1e-3": int((error < 1e-3).sum()),
                    "right_to_1e-8": int((error < 1e-8).sum()),
                }
            except Exception as failure:
                line |= {
                    "right_to_1e-3": 0,
                    "right_to_1e-8": 0,
                    "refused": f"{type(failure).__name__}: {str(failure)[:80]}",
                }
            found.append(line)
    return found


def draw(took: dict, curves: dict, found: list[dict]) -> None:
    use_style()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
    names = sorted(took, key=took.get)
    axes[0].barh(
        names,
        [took[n] for n in names],
        color=["0.3" if n in ("s4bt", "LAPACK calls alone") else "0.75" for n in names],
    )
    axes[0].set(
        xscale="log",
        xlabel=f"seconds, {LAYERS * CHANNELS} systems, N = {N} to {R}, one thread",
        xlim=(0.5, 200),
    )
    for ax, ending, label in (
        (axes[1], "against N", "modes N"),
        (axes[2], "against systems", "systems"),
    ):
        for (name, (sizes, times, power)), marker in zip(curves.items(), "osv"):
            if name.endswith(ending):
                ax.loglog(
                    sizes, times, marker=marker, label=f"{name.split(',')[0]}: power {power:.2f}"
                )
        ax.set(xlabel=label, ylabel="seconds per system" if ending == "against N" else "seconds")
        ax.legend(fontsize=7)
    for ax in axes:
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[1].set_xticks([16, 64, 256], [16, 64, 256])
    axes[2].set_xticks([16, 64, 256, 1024, 4096], [16, 64, 256, 1024, 4096])
    save(figure, OUT / "reduction.png")
    systems, tools = (
        list(dict.fromkeys(f["system"] for f in found)),
        list(dict.fromkeys(f["tool"] for f in found)),
    )
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.0), sharey=True)
    for ax, level in zip(axes, ("right_to_1e-3", "right_to_1e-8")):
        share = np.array(
            [
                [
                    next(
                        f[level] / f["values"] for f in found if (f["system"], f["tool"]) == (s, t)
                    )
                    for s in systems
                ]
                for t in tools
            ]
        )
        ax.imshow(share, cmap="Greys_r", vmin=0, vmax=1.2, aspect="auto")
        for (i, j), value in np.ndenumerate(share):
            ax.text(
                j,
                i,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                color="w" if value < 0.5 else "k",
                fontsize=7,
            )
        ax.set_xticks(range(len(systems)), systems, rotation=30, ha="right", fontsize=7)
        ax.set_yticks(range(len(tools)), tools, fontsize=7)
        ax.set_title(f"Hankel singular values {level.replace('_', ' ')}, %", fontsize=9)
        ax.grid(False)
    save(figure, OUT / "accuracy.png")


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings(
        "ignore", module="slycot"
    )  # it says which states are not minimal, which is the question here
    rows: list[dict] = []
    took, curves, found = speed(rows), growth(rows), accuracy()
    write(OUT / "accuracy.csv", found)
    draw(took, curves, found)
    finish("reduction", rows)


if __name__ == "__main__":
    main()
