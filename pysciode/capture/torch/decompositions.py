"""Operations that a trace replaces by others as soon as it meets them.

Their derivatives are those of what replaces them: torch lacks the further ones (models that take derivatives themselves leave
such operations in the trace), or the forward derivative is another than the backward one at a kink, or the table of
operations has no row and torch no decomposition.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

aten = torch.ops.aten

# What takes n² comparisons or n steps is refused by name beyond these.
_MOST_SORTED = 512
_MOST_ROWS = 32
_MOST_SQUARINGS = 20


def _small_determinant(a: torch.Tensor) -> Any:
    """The determinant by its formula: torch's own derivative goes by way of singular values."""
    n = a.shape[-1]
    if n > 4:
        return NotImplemented

    def expand(rows: list[int], columns: list[int]) -> torch.Tensor:
        if not rows:
            return torch.ones(a.shape[:-2], dtype=a.dtype, device=a.device)
        terms = [a[..., rows[0], c] * expand(rows[1:], columns[:i] + columns[i + 1 :]) for i, c in enumerate(columns)]
        return functools.reduce(lambda x, y: x + y, [-x if i % 2 else x for i, x in enumerate(terms)])

    return expand([*range(n)], [*range(n)]), a, torch.zeros(a.shape[:-1], dtype=torch.int32, device=a.device)


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    norm = v.square().sum([a for a in range(v.ndim) if a != dim], keepdim=True).sqrt()
    return v * (g / norm), norm


def _weight_norm_backward(
    grad: torch.Tensor, v: torch.Tensor, g: torch.Tensor, norm: torch.Tensor, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    along = (grad * v).sum([a for a in range(v.ndim) if a != dim], keepdim=True)
    return g / norm * (grad - v * along / norm.square()), along / norm


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, slope * x)


def _hardsigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x <= -3, 0, torch.where(x >= 3, 1, (x + 3) / 6))


def _clamp_min(x: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= bound, x, torch.maximum(x, bound))


def _clamp_max(x: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    return torch.where(x <= bound, x, torch.minimum(x, bound))


def _clamp(x: torch.Tensor, min: torch.Tensor | None = None, max: torch.Tensor | None = None) -> Any:
    if max is None and min is not None:
        return _clamp_min(x, min)
    if min is None and max is not None:
        return _clamp_max(x, max)
    return NotImplemented


def _fmax(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where((x >= y) | torch.isnan(y), x, y)


def _fmin(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where((x <= y) | torch.isnan(y), x, y)


# --- order ---


def _sort(x: torch.Tensor, dim: int = -1, descending: bool = False) -> Any:
    """By the rank of each element, which all others decide: no index is computed from values. Stable; NaN is the largest."""
    if x.ndim == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64, device=x.device)
    n = x.shape[dim]
    if n > _MOST_SORTED:
        return NotImplemented
    x = x.movedim(dim, -1)
    mine, other = x[..., :, None], x[..., None, :]
    first, second = (mine, other) if descending else (other, mine)
    before = first < second
    equal = mine == other
    if x.is_floating_point():
        before = before | (torch.isnan(second) & ~torch.isnan(first))
        equal = equal | (torch.isnan(mine) & torch.isnan(other))
    places = torch.arange(n, device=x.device)
    earlier = places[None, :] < places[:, None]
    rank = (before | (equal & earlier)).to(torch.int64).sum(-1)
    here = rank[..., None, :] == places[:, None]
    values = torch.where(here, x[..., None, :], 0).sum(-1)
    indices = torch.where(here, places, 0).sum(-1)
    return values.movedim(-1, dim), indices.movedim(-1, dim)


def _sort_stable(x: torch.Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    return _sort(x, dim, descending)


def _topk(x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    found = _sort(x, dim, largest)
    return found if found is NotImplemented or not x.ndim else tuple(y.narrow(dim, 0, k) for y in found)


def _kthvalue(x: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    found = _sort(x, dim)
    if found is NotImplemented or not x.ndim:
        return found
    return tuple(y.narrow(dim, k - 1, 1) if keepdim else y.select(dim, k - 1) for y in found)


# --- matrices ---


def _cholesky(a: torch.Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """Column by column; where the matrix is not positive definite, NaN."""
    n = a.shape[-1]
    if n > _MOST_ROWS:
        return NotImplemented
    # Only one triangle is read; the derivative of a symmetric matrix is symmetric.
    other = a.mT - a
    a = torch.where(other == 0, a + 0.5 * other, a.mT if upper else a)
    columns: list[torch.Tensor] = []
    for j in range(n):
        column = a[..., :, j]
        if columns:
            left = torch.stack(columns, -1)
            column = column - (left * left[..., j : j + 1, :]).sum(-1)
        column = column / column[..., j : j + 1].sqrt()
        columns.append(torch.where(torch.arange(n, device=a.device) >= j, column, 0))
    out = torch.stack(columns, -1)
    return out.mT if upper else out, torch.zeros(a.shape[:-2], dtype=torch.int32, device=a.device)


def _triangle(a: torch.Tensor, upper: bool, unitriangular: bool = False) -> torch.Tensor:
    if unitriangular:
        one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        return (a.triu(1) if upper else a.tril(-1)) + one
    return a.triu() if upper else a.tril()


def _solve_triangular(a: torch.Tensor, b: torch.Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> torch.Tensor:
    return torch.linalg.solve(_triangle(a, upper, unitriangular), b, left=left)


def _cholesky_solve(b: torch.Tensor, factor: torch.Tensor, upper: bool = False) -> torch.Tensor:
    factor = _triangle(factor, upper)
    return torch.linalg.solve(factor.mT @ factor if upper else factor @ factor.mT, b)


def _slogdet(a: torch.Tensor) -> Any:
    found = _small_determinant(a)
    if found is NotImplemented:
        return found
    det, factors, pivots = found
    return det.sign(), det.abs().log(), factors, pivots


def _matrix_exp(a: torch.Tensor) -> torch.Tensor:
    """Scaling and squaring (Moler & Van Loan, SIAM Review 45, 2003, method 3) of a Taylor polynomial."""
    size = a.abs().sum(-2).amax(-1)[..., None, None].clamp(min=0.5)
    count = torch.log2(size * 2).ceil()
    x = a * torch.exp2(-count)
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    out = one + x / 14
    for k in range(13, 0, -1):
        out = one + x @ out / k
    for k in range(_MOST_SQUARINGS):
        out = torch.where(count > k, out @ out, out)
    return torch.where(count > _MOST_SQUARINGS, math.nan, out)


# --- distances ---


def _cdist(x: torch.Tensor, y: torch.Tensor, p: float, compute_mode: int | None = None) -> Any:
    if p == math.inf:
        return NotImplemented  # where differences tie, its derivative is no norm's
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def _euclidean_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _cdist(x, y, 2.0)


def _pdist(x: torch.Tensor, p: float = 2.0) -> Any:
    if p == math.inf:
        return NotImplemented
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1, device=x.device)
    return torch.linalg.vector_norm(x[i] - x[j], p, -1)


REWRITTEN = {
    aten._prelu_kernel.default: _prelu,
    aten.hardsigmoid.default: _hardsigmoid,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.Tensor: _clamp_min,
    aten.clamp_max.Tensor: _clamp_max,
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    aten._linalg_det.default: _small_determinant,
    aten._linalg_slogdet.default: _slogdet,
    aten._weight_norm_interface.default: _weight_norm,
    aten._weight_norm_interface_backward.default: _weight_norm_backward,
    aten.sort.default: _sort,
    aten.sort.stable: _sort_stable,
    aten.topk.default: _topk,
    aten.kthvalue.default: _kthvalue,
    aten.linalg_cholesky_ex.default: _cholesky,
    aten.linalg_solve_triangular.default: _solve_triangular,
    aten.cholesky_solve.default: _cholesky_solve,
    aten.linalg_matrix_exp.default: _matrix_exp,
    aten._cdist_forward.default: _cdist,
    aten._euclidean_dist.default: _euclidean_distance,
    aten._pdist_forward.default: _pdist,
}
