"""Initial value problems of first order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..arrays.checks import check_function
from ..arrays.torch_compile import opaque
from ..capture.compiled_model import CompiledModel
from .base import Problem

if TYPE_CHECKING:
    from ..graphs.captured_model import CapturedModel


class ODEProblem(Problem):
    """The initial value problem ``du/dt = f(u, p, t)``, ``u(tspan[0]) = u0``.

    Parameters
    ----------
    f
        ``f(u, p, t) -> du`` or, in place, ``f(du, u, p, t)``, in plain Python, NumPy or torch; an ``nn.Module`` with
        ``forward(t, u)`` or ``forward(u)``; a tuple of SymPy expressions; or Julia source as a string. It is captured when
        it is first needed, and the result is kept with `f` for other problems. A problem sees what `f` reads elsewhere
        (globals, closure, attributes, containers, what its helper functions read) as it is when the problem is made; where no
        model for that is known yet, when it is first solved.
    u0
        The state at ``tspan[0]``: a number or an array of any shape, NumPy or torch. Integers become float64.
    tspan
        Start and end time; the end may lie before the start. The two may be torch tensors that require grad.
    p
        Parameters, handed to `f` in the structure given here: None, a number, an array or tensor, or lists, tuples, named
        tuples and dicts of these. A list of numbers arrives as an array. Parameters of every ``nn.Module`` that `f`
        reaches are parameters too, without being named here.
    capture
        How `f` is taken apart; ``"auto"`` goes by what `f` is, ``"callback"`` leaves it in Python.
    jac_sparsity
        Structure of the Jacobian ``∂f/∂u`` for stiff solvers: a matrix of shape ``(n, n)``, dense or SciPy sparse, or
        True to take it from the model.
    mass_matrix
        ``M`` of ``M du/dt = f``, shape ``(n, n)``, dense or SciPy sparse. Where it is singular, some of the equations are
        algebraic, and ``initializealg=`` of :func:`~pysciode.solve` says how `u0` is made consistent with them.
    name
        A name for messages and plots.

    Attributes
    ----------
    device
        Where the tensors of a torch problem lie, and its solves happen: ``"cuda:0"``; None for main memory.
    functions
        The user's functions by name.
    layout
        How the parameters lie in one flat vector, a :class:`~pysciode.arrays.parameters.ParameterLayout`.
    shape
        Shape of the state.
    tensors
        The tensors among the parameters, those of modules included.
    n
        Number of entries of the state.
    captured
        The captured model with what is kept for it; None before it is first needed.

    Raises
    ------
    TypeError, ValueError
        Where an argument has a wrong type, shape, dtype or device, or is not finite; the argument is named.

    Notes
    -----
    A problem does not change: :func:`remake` makes another. ``problem.u0`` is the state as an array or tensor of the
    problem's dtype. With a torch tensor in `u0` or `p`, or with module parameters, the problem belongs to torch: solutions
    are tensors, and gradients flow.
    """

    _arguments: ClassVar[tuple[str, ...]] = (
        "f", "u0", "tspan", "p", "capture", "jac_sparsity", "mass_matrix", "name"
    )  # fmt: skip

    @opaque
    def __init__(
        self,
        f: Any,
        u0: Any,
        tspan: Any,
        p: Any = None,
        *,
        capture: str = "auto",
        jac_sparsity: Any = None,
        mass_matrix: Any = None,
        name: str | None = None,
    ) -> None:
        check_function(f)
        self._prepare({"f": f}, u0, tspan, p, capture=capture, jac_sparsity=jac_sparsity, mass_matrix=mass_matrix, name=name)


def posed(
    f: Any,
    u0: Any,
    tspan: Any,
    modules: list[tuple[str, Any]],
    capture: str = "auto",
    *,
    p: Any = None,
    model: CapturedModel | None = None,
) -> ODEProblem:
    """An `ODEProblem` with these as the trainable tensors that `f` reaches, and perhaps with a model captured elsewhere."""
    problem = object.__new__(ODEProblem)
    problem._prepare({"f": f}, u0, tspan, p, capture=capture, modules=modules)
    return problem if model is None else problem._copy(captured=CompiledModel(lambda: model))
