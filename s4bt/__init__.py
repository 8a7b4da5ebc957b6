"""Balanced truncation as model compression for S4 models with diagonal state space layers.

(Ezoe & Sato 2024, arXiv 2402.15993)

A house of rooms; a room imports only rooms above it, a file only files above it in its room:

lazy, version, files, progress   what all of them use
reduction   systems, Gramians, methods, error bounds: PyTorch, NumPy and SciPy, nothing else
nn          the S4 model with DSS layers
adapters    LRU, S5 and S4D layers of other people
compression a whole model, truncated
tasks       the six tasks
study       the pipeline: configuration, training, experiments, statistics, figures
course      what the lessons share

Conventions, used everywhere:

continuous  dt is None: h(t) = sum_n residues_n exp(poles_n t)
discrete    h[k] = sum_n residues_n poles_n^k, k = 0, 1, …; the Hankel operator is
            H[i, j] = h[i + j], so h[0] counts. Where a feedthrough is free, as in a DSS layer, h[0]
            can go into it, and the operator of h[1], h[2], … sets the limit
real=True   the output is Re(h); what is balanced is the conjugate-closed system of real order 2N
rank        complex modes that a layer stores after reduction; a real pole costs one mode too
order       dimension of the system that is balanced: N, or 2N if real

B batch   L sequence length   H channels (width)   N complex modes per channel   r modes kept
sigma Hankel singular values

Public names are loaded when they are first asked for, so that `import s4bt` is quick.
"""

from s4bt.lazy import attach
from s4bt.version import __version__ as __version__

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "DiagonalLTI": "s4bt.reduction.systems",
        "UnstableSystem": "s4bt.reduction.systems",
        "StateSpace": "s4bt.reduction.state_space",
        "hankel_singular_values": "s4bt.reduction.gramians",
        "balanced_truncation": "s4bt.reduction.balanced",
        "error_bound": "s4bt.reduction.balanced",
        "METHODS": "s4bt.reduction.methods",
        "reduce": "s4bt.reduction.dispatch",
        "DSS": "s4bt.nn.dss",
        "S4Model": "s4bt.nn.s4",
        "load_model": "s4bt.nn.storage",
        "save_model": "s4bt.nn.storage",
        "compress": "s4bt.compression",
        "reduce_layer": "s4bt.reduction.layers",
    },
)
