"""Captures of models inside torch.func's transformations (grad, vmap, jacrev, …): a model is the same inside and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.utils._pytree as pytree

from ...arrays.torch_transforms import is_wrapped, transforming
from ..fresh_thread import apart
from ..parts import ADAPTER
from ..reach import reached_by
from ..state_changes import number_at, put_number
from .parameters import discover_parameters

T = TypeVar("T")


def captured_outside(capture: Callable[[Any, Any], T], f: Any, u0: Any, p: Any) -> T:
    """``capture(u0, p)``, outside of any transformation: a model is the same inside and out.

    Tensors of a transformation, those that `f` reaches too (``torch.func.functional_call`` puts them into modules), are stood in for by
    ones of the same shape.

    Raises
    ------
    TypeError
        If `f` reaches such a tensor where none can stand in for it, as in a tuple.
    """
    if not transforming():
        return apart(lambda: capture(u0, p))

    def plain(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and is_wrapped(x):
            return torch.ones(tuple(x.shape), dtype=x.dtype, requires_grad=x.requires_grad)
        return x

    def work() -> T:
        adapter = vars(f).get(ADAPTER) if hasattr(f, "__dict__") else None
        with _stood_in_for(places), nullcontext() if adapter is None else adapter.looking_again():
            for name, x in discover_parameters(f).items():
                if is_wrapped(x):
                    raise TypeError(f"the model uses {name}, which is being transformed by torch.func: pass it in p")
            return capture(plain_u0, plain_p)

    places = reached_by(f).transformed  # which a thread apart, outside of the transformation, does not tell from others
    plain_u0, plain_p = plain(u0), pytree.tree_map(plain, p)
    return apart(work)


@contextmanager
def _stood_in_for(places: list[Any]) -> Iterator[None]:
    replaced = [(place, number_at(place)) for place in places]
    stand_ins = {id(x): torch.nn.Parameter(torch.ones(tuple(x.shape), dtype=x.dtype)) for _, x in replaced}
    for place, x in replaced:
        put_number(place, stand_ins[id(x)])
    try:
        yield
    finally:
        for place, x in replaced:
            put_number(place, x)
