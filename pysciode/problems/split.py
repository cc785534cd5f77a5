"""Problems whose right-hand side is a sum of a stiff and another part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from ..arrays.torch_compile import opaque
from .base import Problem
from .declarations import Form, Signature


class SplitODEProblem(Problem):
    """The problem ``du/dt = f1(u, p, t) + f2(u, p, t)``, of which IMEX methods treat `f1` implicitly and `f2` explicitly.

    Parameters
    ----------
    f1, f2
        The stiff and the other part; out of place, or in place with the result as a first argument.
    u0, tspan, p, capture, name
        As for :class:`ODEProblem`.
    """

    signatures: ClassVar[Mapping[str, Signature]] = {"f1": Signature(), "f2": Signature()}
    form: ClassVar[Form] = Form("split", frozenset({"imex", "imex_sdirk"}), parts=("f1", "f2"))
    _arguments: ClassVar[tuple[str, ...]] = ("f1", "f2", "u0", "tspan", "p", "capture", "name")

    @opaque
    def __init__(
        self,
        f1: Callable[..., Any],
        f2: Callable[..., Any],
        u0: Any,
        tspan: Any,
        p: Any = None,
        *,
        capture: str = "auto",
        name: str | None = None,
    ) -> None:
        self._prepare({"f1": f1, "f2": f2}, u0, tspan, p, capture=capture, name=name)

    @staticmethod
    def _first_order(f1: Callable[..., Any], f2: Callable[..., Any]) -> Callable[..., Any]:
        def whole(u: Any, p: Any, t: Any) -> Any:
            a, b = f1(u, p, t), f2(u, p, t)
            # Lists would be concatenated.
            return (a if hasattr(a, "shape") else np.asarray(a)) + (b if hasattr(b, "shape") else np.asarray(b))

        return whole
