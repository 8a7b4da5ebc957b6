"""Write reference.json: systems that are hard, and their Hankel singular values in many digits.

    pip install python-flint==0.9.0, then: python tests/data/make_reference.py

The values are the roots of the eigenvalues of P Q, with both Gramians formed entry by entry and
FLINT's eigenvalues at 1000 bits or more: another method and another arithmetic than those of
s4bt.reduction. Twice as many bits must give the same float64 values.
"""

import json
import sys
from pathlib import Path

import flint
import numpy as np


def skew_hippo(N):
    v = np.sqrt(2 * np.arange(2 * N) + 1.0)
    M = np.tril(np.outer(v, v), -1)
    return -0.5 + 1j * np.sort(np.linalg.eigvalsh(0.5j * (M - M.T)))[::-1][:N]


def systems():
    """name, poles (log poles of a discrete system), residues, discrete and real or not."""

    def rng(seed):
        return np.random.default_rng(seed)

    def normal(r, n):
        return r.normal(size=n) + 1j * r.normal(size=n)

    def init(n):
        return skew_hippo(n)

    def trained(r, n):
        return -0.5 * np.exp(0.7 * r.normal(size=n)) + 1j * skew_hippo(n).imag * (
            1 + 0.05 * r.normal(size=n)
        )

    def clustered(r, n):
        return -0.5 + 1e-3 * r.normal(size=n) + 1j * (3 + 1e-2 * r.normal(size=n))

    for n in (16, 64, 256):
        yield f"initialised-{n}", init(n), normal(rng(n), n), False
        yield f"trained-{n}", trained(rng(n), n), normal(rng(n + 1), n), False
    yield "clustered-64", clustered(rng(2), 64), normal(rng(3), 64), False
    twins = np.repeat(trained(rng(4), 32), 2)
    yield (
        "near-duplicate-64",
        twins * (1 + 1e-9 * rng(5).normal(size=64)),
        normal(rng(6), 64),
        False,
    )
    yield (
        "wide-64",
        trained(rng(7), 64),
        normal(rng(8), 64) * 10 ** rng(9).uniform(-6, 6, 64),
        False,
    )
    wide = -(10 ** rng(10).uniform(-4, 4, 64)) + 1j * 10 ** rng(11).uniform(-4, 4, 64)
    yield "wide-poles-64", wide, normal(rng(12), 64) * 10 ** rng(13).uniform(-6, 6, 64), False
    for dt in (1e-3, 1e-1):
        a = trained(rng(14), 32) * dt
        yield f"discrete-real-{dt}-32", a, normal(rng(15), 32) * (np.exp(a) - 1) / (a / dt), True
    yield "discrete-real-clustered-16", clustered(rng(16), 16) * 0.01, normal(rng(17), 16), True


def values(poles, residues, discrete, bits):
    """Hankel singular values, descending, as float64.

    A discrete system is real, so its conjugate modes are added.
    """
    flint.ctx.prec = bits

    def exact(z):
        return flint.acb(float(z.real), float(z.imag))

    a, w = [exact(z) for z in poles], [exact(z) for z in residues]
    if discrete:
        a, w = a + [z.conjugate() for z in a], [z / 2 for z in w] + [z.conjugate() / 2 for z in w]
    gap = (lambda x, y: 1 - (x + y).exp()) if discrete else (lambda x, y: -(x + y))
    P = flint.acb_mat([[1 / gap(x, y.conjugate()) for y in a] for x in a])
    Q = flint.acb_mat(
        [
            [w[i].conjugate() * w[j] / gap(x.conjugate(), y) for j, y in enumerate(a)]
            for i, x in enumerate(a)
        ]
    )
    found = (P * Q).mid().eig(algorithm="approx", tol=flint.arb(2) ** (20 - bits), maxiter=100000)
    return np.array(sorted((float(abs(v).mid().sqrt()) for v in found), reverse=True))


def main():
    out = []
    for name, poles, residues, discrete in systems():
        bits = 4000 if "clustered" in name else 1600 if len(poles) < 128 else 1000
        check, sigma = (values(poles, residues, discrete, b) for b in (bits, 2 * bits))
        assert np.abs(sigma / check - 1).max() < 1e-14, (name, np.abs(sigma / check - 1).max())
        print(f"{name}: smallest / largest {sigma[-1] / sigma[0]:.1e}", file=sys.stderr, flush=True)

        def pairs(z):
            return [[x.real, x.imag] for x in z.tolist()]

        out.append(
            {
                "name": name,
                "discrete": discrete,
                "poles": pairs(poles),
                "residues": pairs(residues),
                "hsv": sigma.tolist(),
            }
        )
    (Path(__file__).parent / "reference.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
