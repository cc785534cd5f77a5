"""SciPy's `solve_ivp`, solved by SciML: a change of the import line is enough. See :mod:`pysciode.compat.scipy.solve_ivp`."""

from .solve_ivp import solve_ivp

__all__ = ["solve_ivp"]
