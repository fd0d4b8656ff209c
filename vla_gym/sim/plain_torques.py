"""
The controller's torques without LAPACK and BLAS, for machines without SciPy, from which numba takes these.

``controller.osc_torques`` is the readable twin, used if SciPy is installed. The two differ by rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from vla_gym.sim.controller import KD, KP, NULLSPACE_KD, NULLSPACE_KP
from vla_gym.type_aliases import Float64Array

_CUTOFF = 1e-15
"""Ratio of eigenvalues below which a direction is dropped, as in ``np.linalg.pinv``."""
_MAX_SWEEPS = 30


@njit(cache=True, nogil=True)
def plain_osc_torques(
    goal_pos: Float64Array,
    goal_mat: Float64Array,
    eef_pos: Float64Array,
    eef_mat: Float64Array,
    eef_vel: Float64Array,
    jacobian: Float64Array,
    mass: Float64Array,
    joint_error: Float64Array,
    joint_vel: Float64Array,
    bias: Float64Array,
) -> Float64Array:
    """Compute torques (N m), (7,); same parameters as ``controller.osc_torques``."""
    force, torque = np.empty(3), np.empty(3)
    for k in range(3):
        force[k] = KP * (goal_pos[k] - eef_pos[k]) - KD * eef_vel[k]
        i, j = (k + 1) % 3, (k + 2) % 3
        error = 0.0
        for axis in range(3):
            error += 0.5 * (eef_mat[i, axis] * goal_mat[j, axis] - eef_mat[j, axis] * goal_mat[i, axis])
        torque[k] = KP * error - KD * eef_vel[3 + k]
    transposed = jacobian.T.copy()
    spread = product(pseudo_inverse(mass), transposed)
    inertia_inv = product(jacobian, spread)
    wrench = np.zeros((6, 1))
    wrench[:3] = product(pseudo_inverse(inertia_inv[:3, :3].copy()), force.reshape(3, 1))
    wrench[3:] = product(pseudo_inverse(inertia_inv[3:, 3:].copy()), torque.reshape(3, 1))
    posture = product(mass, (NULLSPACE_KP * joint_error - NULLSPACE_KD * joint_vel).reshape(7, 1))
    # N' p = p - J' lambda (M^-1 J')' p
    in_task = product(pseudo_inverse(inertia_inv), product(spread.T.copy(), posture))
    return (product(transposed, wrench - in_task) + posture).ravel() + bias


@njit(cache=True, nogil=True)
def product(a: Float64Array, b: Float64Array) -> Float64Array:
    """Multiply two matrices, (n, m) by (m, k)."""
    result = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                result[i, j] += a[i, k] * b[k, j]
    return result


@njit(cache=True, nogil=True)
def pseudo_inverse(matrix: Float64Array) -> Float64Array:
    """
    Compute the pseudo-inverse of a symmetric matrix from its eigenvalues.

    Reference: cyclic Jacobi rotations (Golub and Van Loan, Matrix Computations, 8.5).

    :param matrix: (n, n)
    :return: (n, n); NaN where the matrix has NaN
    """
    n = matrix.shape[0]
    a, vectors = matrix.copy(), np.eye(n)
    for _ in range(_MAX_SWEEPS):
        beside = 0.0
        for i in range(n):
            for j in range(i):
                beside = max(beside, abs(a[i, j]) / math.sqrt(abs(a[i, i] * a[j, j]) + 1e-300))
        if not beside > 1e-17:
            break
        for i in range(n):
            for j in range(i):
                if a[i, j] != 0.0:
                    _rotate(a, vectors, i, j)
    largest = 0.0
    for i in range(n):
        largest = max(largest, abs(a[i, i]))
    result = np.zeros((n, n))
    for k in range(n):
        # written so that NaN passes
        if not abs(a[k, k]) <= _CUTOFF * largest:
            for i in range(n):
                for j in range(n):
                    result[i, j] += vectors[i, k] * vectors[j, k] / a[k, k]
    return result


@njit(cache=True, nogil=True)
def _rotate(a: Float64Array, vectors: Float64Array, i: int, j: int) -> None:
    """Apply a Jacobi rotation that makes ``a[i, j]`` zero."""
    n = a.shape[0]
    theta = 0.5 * (a[j, j] - a[i, i]) / a[i, j]
    t = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta * theta + 1.0))
    c = 1.0 / math.sqrt(t * t + 1.0)
    s = t * c
    for k in range(n):
        a[k, i], a[k, j] = c * a[k, i] - s * a[k, j], s * a[k, i] + c * a[k, j]
    for k in range(n):
        a[i, k], a[j, k] = c * a[i, k] - s * a[j, k], s * a[i, k] + c * a[j, k]
        vectors[k, i], vectors[k, j] = c * vectors[k, i] - s * vectors[k, j], s * vectors[k, i] + c * vectors[k, j]
    a[i, j] = a[j, i] = 0.0
