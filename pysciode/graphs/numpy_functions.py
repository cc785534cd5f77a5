"""NumPy functions for which NumPy's own implementation does not work on arrays of Scalars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import CaptureError
from .numpy_protocol import FUNCTIONS, ScalarArray, clip, where, wrap
from .scalar_graph import Scalar
from .user_code import user_line

_where = np.frompyfunc(where, 3, 1)
_clip = np.frompyfunc(clip, 3, 1)


def objects(x: Any) -> np.ndarray:
    """A plain object array of `x`."""
    out = np.asarray(x, object)
    return out.view(np.ndarray)


def np_where(condition, x=None, y=None):
    if x is None:
        raise _cannot("np.where(condition) without values", "its result has no fixed size")
    return _where(objects(condition), objects(x), objects(y))


def _cannot(what: str, why: str) -> CaptureError:
    return CaptureError(f"{what}: {why}", operation=what, where=user_line())


def np_clip(a, a_min=None, a_max=None, out=None, *, min=None, max=None, **kwargs):
    low = a_min if a_min is not None else min
    high = a_max if a_max is not None else max
    return _clip(objects(a), objects(low), objects(high))


def np_sinc(x):
    y = np.pi * x
    return np_where(y == 0, 1.0, np.sin(y) / np.where(y == 0, 1.0, y))


def np_select(condlist, choicelist, default: Any = 0):
    out = objects(default)
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        out = np_where(condition, choice, out)
    return out


def np_piecewise(x, condlist, funclist, *args, **kw):
    choices = [f(x, *args, **kw) if callable(f) else f for f in funclist]
    default = choices.pop() if len(choices) == len(condlist) + 1 else 0.0
    return np_select(condlist, choices, default)


def np_interp(x, xp, fp, left=None, right=None, period=None):
    if period is not None:
        raise _cannot("np.interp(period=…)", "not supported; use x % period")
    knots, values = objects(xp), objects(fp)
    if any(isinstance(k, Scalar) for k in knots.flat):
        raise _cannot("np.interp", "the places xp of the data must be numbers")
    knots = knots.astype(float)
    x = objects(x)
    out = objects(values[-1] if right is None else right)
    # x == xp[-1] gives fp[-1], beyond it `right`.
    out = np_where(_at_most(x, knots[-1]), values[-1], out)
    for k in range(len(knots) - 2, -1, -1):
        slope = (values[k + 1] - values[k]) / (knots[k + 1] - knots[k])
        segment = values[k] + slope * (x - knots[k])
        out = np_where(_below(x, knots[k + 1]), segment, out)
    return np_where(_below(x, knots[0]), values[0] if left is None else left, out)


_below = np.frompyfunc(lambda a, b: a < b, 2, 1)
_at_most = np.frompyfunc(lambda a, b: a <= b, 2, 1)


def _like(value: Any) -> Callable[..., Any]:
    def make(a, dtype=None, order="K", subok=True, shape=None, **kwargs):
        return _filled(np.shape(a) if shape is None else shape, value)

    return make


def _filled(shape: Any, value: Any) -> np.ndarray:
    out = np.empty(shape, object).view(ScalarArray)
    out[...] = value
    return out


def np_full_like(a, fill_value, dtype=None, order="K", subok=True, shape=None, **kwargs):
    return _filled(np.shape(a) if shape is None else shape, fill_value)


def _of_all_entries(ord: Any, ndim: int) -> bool:
    return ord is None or (ord == "fro" and ndim >= 2)


def np_norm(x, ord: Any = None, axis=None, keepdims=False):
    x = wrap(np.asarray(x, object))
    if _of_all_entries(ord, x.ndim):
        if axis is None:
            axis = tuple(range(x.ndim))
        return _root(np.sum(x * x, axis=axis, keepdims=keepdims))
    if isinstance(axis, tuple) or (axis is None and x.ndim != 1):
        raise _cannot(f"np.linalg.norm(ord={ord!r}) of a matrix", "not supported")
    size = np.abs(x)
    if ord == 1:
        return np.sum(size, axis=axis, keepdims=keepdims)
    if ord == 2:
        return _root(np.sum(x * x, axis=axis, keepdims=keepdims))
    if ord in (np.inf, -np.inf):
        return (np.maximum if ord > 0 else np.minimum).reduce(size, axis=axis, keepdims=keepdims)
    powers = _nonzero(size, lambda x: x**ord) if 0 < ord < 2 else size**ord
    return _root(np.sum(powers, axis=axis, keepdims=keepdims), ord)


def _nonzero(x, function):
    """`function` of `x`; where `x` is 0, 0 with derivative 0, as in torch."""
    is_zero = wrap(x) == 0
    return np_where(is_zero, 0.0, function(wrap(np_where(is_zero, 1.0, x))))


def _root(x, order: Any = 2):
    return _nonzero(x, np.sqrt if order == 2 else lambda x: x ** (1.0 / order))


def np_mean(a, axis=None, dtype=None, out=None, keepdims=False, **kwargs):
    total = np.sum(a, axis=axis, keepdims=keepdims)
    return total / _count(a, axis)


def _count(a: Any, axis: Any) -> int:
    shape = np.shape(a)
    axes = range(len(shape)) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
    return int(np.prod([shape[k] for k in axes]))


def np_var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, **kwargs):
    deviation = wrap(a) - np_mean(a, axis, keepdims=True)
    return np.sum(deviation * deviation, axis=axis, keepdims=keepdims) / (_count(a, axis) - ddof)


def np_std(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, **kwargs):
    return _root(np_var(a, axis, ddof=ddof, keepdims=keepdims))


def np_average(a, axis=None, weights=None, **kwargs):
    if weights is None:
        return np_mean(a, axis)
    weights = np.asarray(weights, object)
    if axis is not None and weights.ndim == 1 != np.ndim(a):
        weights = np.expand_dims(weights, tuple(k for k in range(np.ndim(a)) if k != axis % np.ndim(a)))
    weights = wrap(np.broadcast_to(weights, np.shape(a)))
    return np.sum(wrap(a) * weights, axis=axis) / np.sum(weights, axis=axis)


def np_einsum(*operands, optimize=False, out=None, **kwargs):
    """By broadcasting; NumPy has it for objects only from 1.25 on."""
    if not isinstance(operands[0], str):
        raise _cannot("np.einsum", "only with a subscripts string")
    subscripts, arrays = operands[0].replace(" ", ""), [objects(x) for x in operands[1:]]
    if "..." in subscripts:
        raise _cannot("np.einsum", "an ellipsis is not supported: name all indices")
    left, arrow, right = subscripts.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = "".join(terms)
        right = "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    order = right + "".join(sorted(set("".join(terms)) - set(right)))
    product: Any = 1.0
    for term, x in zip(terms, arrays, strict=True):
        for letter in set(term):
            while term.count(letter) > 1:  # a diagonal
                first, second = term.index(letter), term.rindex(letter)
                x = np.diagonal(x, axis1=first, axis2=second)
                term = term[:first] + term[first + 1 : second] + term[second + 1 :] + letter
        x = x.transpose([term.index(letter) for letter in order if letter in term])
        product = product * x.reshape([x.shape[sorted(term, key=order.index).index(k)] if k in term else 1 for k in order])
    return product.sum(axis=tuple(range(len(right), len(order)))) if len(order) > len(right) else product


def np_round(a, decimals=0, out=None):
    return np.rint(a) if decimals == 0 else np.rint(a * 10.0**decimals) / 10.0**decimals


def np_det(a):
    rows = objects(a)
    if rows.ndim != 2 or rows.shape[0] != rows.shape[1]:
        raise _cannot("np.linalg.det", "of one square matrix only")
    return _det([list(row) for row in rows])


def _det(rows: list[list[Any]]) -> Any:
    """Laplace's expansion; for the few rows that a scalar model has."""
    if len(rows) > 6:
        raise _cannot("np.linalg of a matrix of more than 6 rows", "write the model with torch")
    if not rows:
        return 1.0
    total: Any = 0.0
    for k, first in enumerate(rows[0]):
        if isinstance(first, Scalar) or first != 0:
            minor = _det([row[:k] + row[k + 1 :] for row in rows[1:]])
            total = total + (first * minor if k % 2 == 0 else -first * minor)
    return total


def np_inv(a):
    rows = [list(row) for row in objects(a)]
    n, det = len(rows), _det([list(row) for row in objects(a)])
    out = np.empty((n, n), object)
    for i in range(n):
        for j in range(n):
            minor = _det([row[:i] + row[i + 1 :] for k, row in enumerate(rows) if k != j])
            out[i, j] = (minor if (i + j) % 2 == 0 else -minor) / det
    return out


def np_solve(a, b):
    """Cramer's rule."""
    return wrap(np_inv(a)) @ wrap(objects(b))


def _reduction(ufunc: np.ufunc) -> Callable[..., Any]:
    def reduce(a, axis=None, out=None, keepdims=False, **kwargs):
        return ufunc.reduce(wrap(np.asarray(a, object)), axis=axis, keepdims=keepdims)

    return reduce


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*args, **kwargs):
        raise _cannot(f"np.{name}", "it decides by the values of the state, which are not known while the model is captured")

    return refuse


FUNCTIONS |= {
    "where": np_where,
    "clip": np_clip,
    "select": np_select,
    "piecewise": np_piecewise,
    "interp": np_interp,
    "sinc": np_sinc,
    "zeros_like": _like(0.0),
    "empty_like": _like(0.0),
    "ones_like": _like(1.0),
    "full_like": np_full_like,
    "norm": np_norm,
    "mean": np_mean,
    "var": np_var,
    "std": np_std,
    "average": np_average,
    "einsum": np_einsum,
    "round": np_round,
    "around": np_round,
    "det": np_det,
    "inv": np_inv,
    "solve": np_solve,
    "max": _reduction(np.maximum),
    "amax": _reduction(np.maximum),
    "min": _reduction(np.minimum),
    "amin": _reduction(np.minimum),
    "any": _reduction(np.logical_or),
    "all": _reduction(np.logical_and),
    **{
        name: _refuse(name)
        for name in ("sort", "argsort", "argmax", "argmin", "nonzero", "searchsorted", "digitize", "unique", "median",
                     "percentile", "quantile", "histogram", "isclose", "allclose", "array_equal", "partition")
    },
}  # fmt: skip
