"""Parameters as users write them, and as engines take them: nested containers and one flat vector."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from numbers import Real
from typing import Any

import numpy as np

NUMBER = "number"
ARRAY = "array"

Tree = tuple
"""``("none",)``, ``("number",)``, ``("array", shape)``, ``("dict", ((key, Tree), …))``, ``("list" | "tuple", (Tree, …))`` or
``("namedtuple", type, (Tree, …))``: hashable, so that it can be part of a cache's key."""


def is_tensor(x: object) -> bool:
    """Whether `x` is a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_module(x: object) -> bool:
    """Whether `x` is a ``torch.nn.Module``; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.nn.Module)


def _is_number(x: object) -> bool:
    # A bool is an int to Python, but as a parameter it is a mistake.
    return (isinstance(x, Real) and not isinstance(x, bool)) or isinstance(x, (np.floating, np.integer))


def _tree(p: Any, path: str, leaves: list[Any]) -> Tree:
    """The structure of `p`; its leaves are appended to `leaves` in order."""
    if isinstance(p, np.ndarray) or is_tensor(p):
        leaves.append(p)
        return (ARRAY, tuple(p.shape))
    if p is None:
        return ("none",)
    if _is_number(p):
        leaves.append(p)
        return (NUMBER,)
    if isinstance(p, Mapping):
        return ("dict", tuple((k, _tree(v, f"{path}[{k!r}]", leaves)) for k, v in p.items()))
    if isinstance(p, tuple) and (fields := getattr(p, "_fields", None)) is not None:
        subtrees = tuple(_tree(v, f"{path}.{k}", leaves) for k, v in zip(fields, p, strict=True))
        return ("namedtuple", type(p), subtrees)
    if isinstance(p, (list, tuple)):
        # A list of numbers (also nested, as a matrix) is one array: `p * 2` and `p[0, 1]` then work in the model.
        numbers = _as_numbers(p)
        if numbers is not None:
            leaves.append(numbers)
            return (ARRAY, numbers.shape)
        kind = "list" if isinstance(p, list) else "tuple"
        return (kind, tuple(_tree(v, f"{path}[{i}]", leaves) for i, v in enumerate(p)))
    if isinstance(p, complex):
        raise TypeError(f"{path} is complex; parameters must be real")
    raise TypeError(
        f"{path} is of type {type(p).__name__}; parameters are numbers, NumPy arrays, torch tensors, or lists, tuples, "
        f"named tuples and dicts of these"
    )


def _as_numbers(p: Sequence[Any]) -> np.ndarray | None:
    """A list or tuple of numbers, or of such lists of one length, as an array; None if it is something else."""
    if len(p) == 0:
        return np.zeros(0)
    if all(_is_number(x) for x in p):
        return np.asarray(p, dtype=float)
    if all(isinstance(x, (list, tuple)) and not hasattr(x, "_fields") and len(x) > 0 for x in p):
        rows = [_as_numbers(x) for x in p]
        whole = [r for r in rows if r is not None]
        if len(whole) == len(rows) and all(r.shape == whole[0].shape for r in whole):
            return np.stack(whole)
    return None


def _count(tree: Tree) -> int:
    match tree[0]:
        case "none":
            return 0
        case "number" | "array":
            return 1
        case "dict":
            return sum(_count(sub) for _, sub in tree[1])
        case _:
            return sum(_count(sub) for sub in tree[-1])


def _rebuild(tree: Tree, leaves: Iterator[Any]) -> Any:
    match tree[0]:
        case "none":
            return None
        case "number" | "array":
            return next(leaves)
        case "dict":
            return {k: _rebuild(sub, leaves) for k, sub in tree[1]}
        case "list":
            return [_rebuild(sub, leaves) for sub in tree[1]]
        case "tuple":
            return tuple(_rebuild(sub, leaves) for sub in tree[1])
        case _:
            return tree[1](*(_rebuild(sub, leaves) for sub in tree[2]))


def _describe(tree: Tree, path: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """``(path, kind, shape)`` of each leaf; a top-level dict's or named tuple's keys stand without prefix."""
    match tree[0]:
        case "none":
            return
        case "number":
            yield path or "p", NUMBER, ()
        case "array":
            yield path or "p", ARRAY, tree[1]
        case "dict":
            for k, sub in tree[1]:
                yield from _describe(sub, f"{path}.{k}" if path else str(k))
        case "namedtuple":
            for k, sub in zip(tree[1]._fields, tree[2], strict=True):
                yield from _describe(sub, f"{path}.{k}" if path else k)
        case _:
            for i, sub in enumerate(tree[1]):
                yield from _describe(sub, f"{path or 'p'}[{i}]")


@dataclass(frozen=True)
class ParameterLayout:
    """How a user's parameters lie in one flat vector: the leaves of `p` in order, then the parameters of modules.

    Attributes
    ----------
    tree
        The structure of `p`, see :data:`Tree`.
    modules
        ``(name, shape)`` of each parameter of the ``nn.Module``\\ s that the model reaches.

    Examples
    --------
    >>> layout, leaves = ParameterLayout.of({"alpha": 1.5, "W": np.zeros((2, 2))})
    >>> layout.names
    ('alpha', 'W[0,0]', 'W[0,1]', 'W[1,0]', 'W[1,1]')
    >>> layout.unflatten(np.arange(5.0))["alpha"]
    np.float64(0.0)
    """

    tree: Tree
    modules: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple:
        return (ParameterLayout, (self.tree, self.modules))  # hashes of strings differ from process to process

    @cached_property
    def _hash(self) -> int:
        return hash((self.tree, self.modules))

    @classmethod
    def of(cls, p: Any, modules: Sequence[tuple[str, Any]] = ()) -> tuple[ParameterLayout, list[Any]]:
        """The layout of `p`, and its leaves in order (module parameters not among them).

        Parameters
        ----------
        modules
            ``(name, parameter)`` of the modules' parameters.

        Raises
        ------
        TypeError
            For a leaf that is no real number or array; its place in `p` is named.
        """
        leaves: list[Any] = []
        tree = _tree(p, "p", leaves)
        return cls(tree, tuple((name, tuple(x.shape)) for name, x in modules)), leaves

    @cached_property
    def n_leaves(self) -> int:
        """How many leaves `p` has, module parameters not counted."""
        return _count(self.tree)

    @cached_property
    def entries(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """``(name, "number" | "array", shape)`` of each leaf, module parameters included."""
        return (*_describe(self.tree, ""), *((name, ARRAY, shape) for name, shape in self.modules))

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each leaf, module parameters included; a number has shape ``()``."""
        return tuple(shape for _, _, shape in self.entries)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The place of each leaf in the flat vector, in C order."""
        out, start = [], 0
        for shape in self.shapes:
            stop = start + prod(shape)
            out.append(slice(start, stop))
            start = stop
        return tuple(out)

    @cached_property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(prod(shape) for shape in self.shapes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each flat entry: ``alpha``, ``W[0,1]``."""
        out = []
        for name, _, shape in self.entries:
            if not shape:
                out.append(name)
            else:
                out.extend(f"{name}[{','.join(map(str, i))}]" for i in product(*map(range, shape)))
        return tuple(out)

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        """The user's structure with other leaves, given in order (module parameters not among them)."""
        return _rebuild(self.tree, iter(leaves))

    def split(self, flat: Any) -> list[Any]:
        """Views of `flat`, one per leaf and module parameter, in their shapes; a number is the entry itself.

        `flat` may be a NumPy array (of objects too) or a torch tensor.
        """
        return [
            flat[place.start] if kind == NUMBER else flat[place].reshape(shape)
            for (_, kind, shape), place in zip(self.entries, self.slices, strict=True)
        ]

    def unflatten(self, flat: Any) -> Any:
        """The user's structure, over the entries of `flat`; the modules' part of it is left out."""
        return self.rebuild(self.split(flat)[: self.n_leaves])

    def flatten(self, p: Any, dtype: Any = np.float64, modules: Sequence[Any] = ()) -> np.ndarray:
        """One flat NumPy vector of `dtype` with the values of `p` and of the module parameters.

        Raises
        ------
        ValueError
            If the structure of `p` is not this layout's.
        """
        leaves: list[Any] = []
        if _tree(p, "p", leaves) != self.tree:
            raise ValueError("p has another structure than this layout was made for")
        return flat_array([*leaves, *modules], dtype)


def flat_array(leaves: Sequence[Any], dtype: Any) -> np.ndarray:
    """The C-order concatenation of numbers, arrays and tensors; one contiguous array of `dtype` is not copied."""
    parts = [_flat(x, dtype) for x in leaves]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _flat(x: Any, dtype: Any) -> np.ndarray:
    if is_tensor(x):
        x = x.numpy(force=True)
    return np.ascontiguousarray(x, dtype).reshape(-1)
