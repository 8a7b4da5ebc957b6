"""The systems that the lessons look at, as NumPy arrays.

A, b, c    real (n, n), (n,), (n,)   x' = A x + b u,  y = c x
poles      complex (N,)              lambda; of a real system one of each conjugate pair, imaginary
           part >= 0
residues   complex (N,)              h(t) = Re sum_n residues_n exp(poles_n t)
"""

from __future__ import annotations

import numpy as np
from scipy import linalg


def chain(
    masses: int = 8,
    stiffness: float = 1.0,
    damping: float = 0.1,
    drag: float = 0.1,
    force: int = -1,
    sensor: int = -1,
) -> tuple[np.ndarray, ...]:
    """A row of equal masses (1 kg) between springs (N/m), the first fixed to a wall.

    A (2n, 2n), b (2n,), c (2n,) of x = (positions, velocities).

    q'' + (drag I + damping K) q' + K q = e_force u, y = e_sensor q, with K = stiffness tridiag(-1,
    2, -1) and half of that in the last corner, where the chain is free; u in newton, y in metres,
    damping in seconds, drag in 1/seconds. force, sensor: the masses, from 0.
    """
    K = stiffness * (2 * np.eye(masses) - np.eye(masses, k=1) - np.eye(masses, k=-1))
    K[-1, -1] = stiffness
    A = np.block(
        [[np.zeros((masses, masses)), np.eye(masses)], [-K, -drag * np.eye(masses) - damping * K]]
    )
    b, c = np.zeros(2 * masses), np.zeros(2 * masses)
    b[masses:][force] = 1
    c[:masses][sensor] = 1
    return A, b, c


def rod(points: int = 12, diffusivity: float = 1.0) -> tuple[np.ndarray, ...]:
    """A rod of length 1, heated and measured at one end: A (n, n) symmetric, b = c (n,).

    The far end is cold.

    T' = diffusivity d^2 T / dx^2 by finite differences, no flux but u through the near end.
    """
    h = 1 / points
    A = diffusivity / h**2 * (np.eye(points, k=1) + np.eye(points, k=-1) - 2 * np.eye(points))
    A[0, 0] = -diffusivity / h**2
    b = np.zeros(points)
    b[0] = h**-0.5
    return A, b, b.copy()


def gramians(A: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P and Q, (n, n), of a stable system: A P + P A^T + b b^T = 0, A^T Q + Q A + c^T c = 0."""
    return (
        linalg.solve_continuous_lyapunov(A, -np.outer(b, b)),
        linalg.solve_continuous_lyapunov(A.T, -np.outer(c, c)),
    )


def balance(A: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    """A stable minimal system in balanced coordinates, P = Q = diag(sigma): A, b, c and sigma.

    The six lines of lesson 4: Cholesky factors of both Gramians, P = Lp Lp^T and Q = Lq Lq^T, the
    SVD Lq^T Lp = U diag(sigma) V^T, then T = Lp V sigma^(-1/2), Z = Lq U sigma^(-1/2) with Z^T T =
    I.
    """
    P, Q = gramians(A, b, c)
    Lp, Lq = np.linalg.cholesky(P), np.linalg.cholesky(Q)
    U, sigma, Vt = np.linalg.svd(Lq.T @ Lp)
    T, Z = Lp @ Vt.T / np.sqrt(sigma), Lq @ U / np.sqrt(sigma)
    return Z.T @ A @ T, Z.T @ b, c @ T, sigma


def modes(A: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poles and residues of a real system, by frequency.

    One mode of each conjugate pair with twice its residue, and the real ones.
    """
    values, V = np.linalg.eig(A)
    residues = (c @ V) * np.linalg.solve(V, b)
    order = np.lexsort((-values.real, values.imag))
    values, residues = values[order], residues[order]
    kept = values.imag >= 0
    return values[kept], np.where(values[kept].imag > 0, 2, 1) * residues[kept]
