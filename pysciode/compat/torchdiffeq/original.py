"""torchdiffeq's own functions, for the embedded engine and for what Julia can't do."""

from __future__ import annotations

from typing import Any

import torchdiffeq

from ...engines.embedded.engine import ADAPTIVE, FIXED
from ...errors import EngineUnavailable
from .methods import algorithm_of, is_torchdiffeqs

ODEINT, ODEINT_ADJOINT = torchdiffeq.odeint, torchdiffeq.odeint_adjoint
ODEINT_DENSE: Any = getattr(torchdiffeq, "odeint_dense", None) or getattr(torchdiffeq._impl, "odeint_dense", None)
ODEINT_EVENT = torchdiffeq.odeint_event


def method_there(method: Any, options: Any) -> Any:
    """torchdiffeq's name of a method.

    Raises
    ------
    EngineUnavailable
        If it has none such.
    """
    if is_torchdiffeqs(method):
        return method
    kind, algorithm = algorithm_of(method, options or {})
    name = "Tsit5" if algorithm is None else algorithm.name
    table = ADAPTIVE if kind == "adaptive" and name in ADAPTIVE else FIXED
    if name not in table or (algorithm is not None and (algorithm.arguments or algorithm.options)):
        raise EngineUnavailable(f"the method {method!r}")
    return table[name]
