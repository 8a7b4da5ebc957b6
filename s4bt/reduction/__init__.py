"""Model order reduction of diagonal state-space layers; needs PyTorch, NumPy and SciPy only.

methods, checks                     the registry, which imports nothing; whole numbers, shares
powers, peaks                       sums of powers, the largest gain over frequencies
diagonal, systems                   DiagonalLTI: responses, norms, discretisation
gramians                            Cholesky factors without Gramians, Hankel singular values
projection, diagonalisation         balanced coordinates, and back to modes
balanced                            balanced truncation, its bound
residualisation, hankel, modal      singular perturbation, Hankel norm, the largest modes
inner_products, expected_error      what the fits minimise, in closed form, and its gradient
variable_projection, h2, weighted   the fits: least expected error in poles and residues
unstable, dispatch                  keeping unstable modes; `reduce`, by the name of a method
quality, ranks                      limits, bounds and errors; how many modes a layer keeps
"""

from s4bt.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "DiagonalLTI": "s4bt.reduction.systems",
        "UnstableSystem": "s4bt.reduction.systems",
        "PrecisionWarning": "s4bt.reduction.gramians",
        "hankel_singular_values": "s4bt.reduction.gramians",
        "balanced_truncation": "s4bt.reduction.balanced",
        "shared_balanced_truncation": "s4bt.reduction.balanced",
        "error_bound": "s4bt.reduction.balanced",
        "METHODS": "s4bt.reduction.methods",
        "Method": "s4bt.reduction.methods",
        "reduce": "s4bt.reduction.dispatch",
    },
)
