"""torchdiffeq's functions, solved by SciML: a change of the import line is enough. See :mod:`pysciode.compat.torchdiffeq.odeint`."""

from .dense import odeint_dense
from .odeint import odeint, odeint_adjoint, odeint_event

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
