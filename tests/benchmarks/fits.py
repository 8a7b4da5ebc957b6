"""Time of truncating a whole trained model to r = 8, and how near a fit is to the best one found:
results/bench/fits.csv.

Pretrained models of scale laptop, the study's calibration sequences, one thread. Best found: of
eight starts with 300 steps each, channel by channel; six of them are the two that the method has,
moved at random.
"""

import torch

from s4bt.compression import checked_calibration, compress, input_spectra
from s4bt.nn.storage import load_model
from s4bt.reduction import variable_projection
from s4bt.reduction.balanced import bt_discrete
from s4bt.reduction.expected_error import Problem, evaluate
from s4bt.reduction.gramians import flattened, normalised, promoted
from s4bt.reduction.methods import METHODS, PERTURBATION, WHITE
from s4bt.reduction.weighted import autocorrelation
from s4bt.study.experiments import pretrained_path
from s4bt.study.places import task_dir
from s4bt.study.truncation import calibration
from s4bt.tasks import load
from tests.benchmarks.common import finish, row, seconds

RANK, STEPS, MOVED, SPREAD = 8, 300, 3, 0.2
SECONDS = 30  # a model


def excess(model, sequences) -> torch.Tensor:
    """Root of the expected error over that of the best found, minus 1, of every channel."""
    found = []
    for dss, spectrum in zip(model.dss_layers(), input_spectra(model, sequences), strict=True):
        kernel, (r, _) = dss.to_lti().discretize(dss.dt()), autocorrelation(spectrum)
        r[:, 0] += WHITE
        flat = normalised(flattened(promoted(kernel)))[0]
        problem = Problem.of(flat, PERTURBATION, r.shape[-1], r)
        strongest = problem.target.mode_energies().topk(RANK, -1).indices
        starts = [bt_discrete(flat, RANK).exponents, flat.exponents.gather(-1, strongest)]
        own = variable_projection.best_fit(problem, starts, variable_projection.ITERATIONS)
        best = own.f
        for a in starts:
            for k in range(MOVED + 1):
                z = torch.randn(a.shape, dtype=a.dtype) * (SPREAD if k else 0)
                moved = torch.complex(a.real * torch.exp(z.real), a.imag * (1 + z.imag))
                best = torch.minimum(best, variable_projection.minimise(problem, moved, STEPS).f)
        found.append((own.f / best).sqrt() - 1)
        assert torch.allclose(evaluate(problem, own.alpha, own.omega).f, own.f)
    return torch.cat(found)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows: list[dict] = []
    for task in ("image", "pathx"):
        model = load_model(pretrained_path("laptop", task, 0))
        sequences = calibration(load(task, task_dir("laptop", task) / "arrays"), 256, 0)
        for method in [m for m in METHODS if METHODS[m].local or m == "bt-discrete"]:
            took = seconds(lambda m=method: compress(model, RANK, m, sequences), 1)
            what = f"truncate the model of {task} to r = {RANK} and measure it: {method}"
            rows.append(row(what, took, "s", SECONDS))
        with torch.no_grad():
            over = excess(model, checked_calibration(model, sequences))
        for name, value in (("median", over.median()), ("worst", over.max())):
            what = f"{task}, weighted, error above the best found, {name} channel"
            rows.append(row(what, float(value), "ratio"))
    finish("fits", rows)


if __name__ == "__main__":
    main()
