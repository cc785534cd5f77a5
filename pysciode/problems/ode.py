"""What is to be solved."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..arrays.checks import TimeSpan, check_function, check_leaves, check_matrix, check_resolution, check_time_span, state_of
from ..arrays.devices import device_of, torch_device
from ..arrays.parameters import ParameterLayout, flat_array, is_tensor
from ..arrays.torch_compile import opaque
from ..capture.model_cache import Captured, store
from ..capture.parts import Same
from ..capture.reach import Reached, reached_by
from ..capture.state_changes import counted, left_as_they_were, place_id

if TYPE_CHECKING:
    from ..arrays.tensors import DeviceValues, TensorValues
    from ..graphs.captured_model import CapturedModel

Kind = Literal["ode", "second_order", "dynamical", "split"]


class ODEProblem:
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
    kind
        What is posed: ``"ode"``, or what the other classes of problems stand for.
    functions
        The user's functions.
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

    f: Any
    functions: tuple[Any, ...]
    u0: Any
    tspan: tuple[float, float]
    p: Any
    capture: str
    jac_sparsity: Any
    mass_matrix: Any
    name: str | None
    layout: ParameterLayout
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_torch: bool
    device: str | None
    leaves: list[Any]
    tensors: list[Any]
    span: TimeSpan
    n: int
    captured: Captured | None
    _flat_p: np.ndarray | None
    _modules: list[tuple[str, Any]]
    _reached: Reached | None
    _values: TensorValues | DeviceValues | None
    _captured_key: Any

    kind: ClassVar[Kind] = "ode"
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
        self.__dict__["functions"] = (f,)
        self._prepare(f, u0, tspan, p, capture, jac_sparsity, mass_matrix, name)

    def _prepare(
        self,
        f: Any,
        u0: Any,
        tspan: Any,
        p: Any,
        capture: str,
        jac_sparsity: Any,
        mass_matrix: Any,
        name: str | None,
        modules: list[tuple[str, Any]] | None = None,
        reached: Reached | None = None,
    ) -> None:
        if reached is None:
            reached = reach(f)
        if modules is None:
            modules = [] if reached is None else list(reached.tensors.items())
        layout, leaves = ParameterLayout.of(p, modules)
        leaves.extend(x for _, x in modules)
        is_torch = is_tensor(u0) or any(is_tensor(x) for x in leaves)
        if is_torch:
            from ..arrays.torch_transforms import refuse_tracing

            refuse_tracing(u0 if is_tensor(u0) else next(filter(is_tensor, leaves)))
        if is_torch and not hasattr(u0, "dtype"):
            u0 = _as_floats_of(leaves, u0)
        names = [entry_name for entry_name, _, _ in layout.entries]
        device = device_of([("u0", u0), *zip(names, leaves, strict=True)]) if is_torch else None
        in_python = not is_tensor(u0)
        u0, dtype = state_of(u0, leaves, is_torch)
        if device is not None and in_python:
            u0 = u0.to(torch_device(device))
        check_leaves(leaves, names, dtype)
        n = int(np.prod(u0.shape))
        if mass_matrix is not None:
            check_matrix(mass_matrix, n, "mass_matrix")
        if jac_sparsity is not None and jac_sparsity is not True:
            check_matrix(jac_sparsity, n, "jac_sparsity")
        span = tspan if isinstance(tspan, TimeSpan) else check_time_span(tspan)
        check_resolution(span, dtype)
        if not is_torch:
            # Problems don't change, so the flat vector can be made once; tensors may be updated in place by an optimiser.
            flat = flat_array(leaves, dtype).copy()
            flat.flags.writeable = False
            u0.flags.writeable = False
        else:
            flat = None
            leaves = [np.array(x) if isinstance(x, np.ndarray) else x for x in leaves]
        self.__dict__.update(
            f=f,
            u0=u0,
            tspan=(span.start, span.end),
            p=p,
            capture=capture,
            jac_sparsity=jac_sparsity,
            mass_matrix=mass_matrix,
            name=name,
            layout=layout,
            shape=tuple(u0.shape),
            dtype=dtype,
            is_torch=is_torch,
            device=device,
            leaves=leaves,
            tensors=[x for x in leaves if is_tensor(x)],
            span=span,
            n=n,
            _flat_p=flat,
            _modules=modules,
            _reached=reached,
            _values=None,
            captured=None,
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a problem does not change; make another with remake(problem, {name}=…)")

    def __copy__(self) -> ODEProblem:
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__)
        return out

    def __reduce__(self) -> tuple:
        """Pickles and deep copies are made anew from the arguments: what was captured and compiled stays here."""
        values = self.layout.n_leaves
        if any(x is not y for x, (_, y) in zip(self.leaves[values:], self._modules, strict=True)):
            raise TypeError("a problem whose modules' parameters are stood in for by other values can't be pickled")
        arguments = {key: self._argument(key) for key in self._arguments}
        return (_remade, (type(self), arguments | {"p": self.layout.rebuild(self.leaves[:values])}))

    def __repr__(self) -> str:
        title = f" {self.name!r}" if self.name else ""
        p = f"{self.layout.size} parameters" if self.layout.size else "no parameters"
        return (
            f"<{type(self).__name__}{title}: state {tuple(self.u0.shape)} {self.dtype}, t from {self.tspan[0]:g} to "
            f"{self.tspan[1]:g}, {p}, {'torch' if self.is_torch else 'NumPy'}>"
        )

    @property
    def model(self) -> CapturedModel:
        """The captured right-hand side, as a first-order system; captured when first asked for.

        Raises
        ------
        CaptureError
            Where `f` can't be captured.
        """
        return self._capture().model

    @property
    def parts(self) -> tuple[CapturedModel, CapturedModel] | None:
        """Two models on the same state whose sum is `model`; None for a plain ODE.

        For a split problem they are ``f1`` (stiff) and ``f2``. For a second-order or dynamical problem, whose state is
        ``[v, u]``, the first has ``dv`` and zeros, the second zeros and ``du``.
        """
        return self._capture().parts

    @property
    def compiled(self) -> dict[Any, Any]:
        """What engines keep for this model; problems that share a model share it."""
        return self._capture().compiled

    @property
    def state_names(self) -> tuple[str, ...]:
        """A name for each flat entry of the state: ``u[0]``, ``u[1,2]``; ``u`` for a number."""
        shape = tuple(self.u0.shape)
        return tuple(f"u[{','.join(map(str, i))}]" for i in np.ndindex(*shape)) if shape else ("u",)

    def flat_u0(self) -> Any:
        """`u0` as one contiguous vector, a tensor on the problem's device if it has one; not a copy where it is one already."""
        return self._tensor_values().u0() if self.is_torch else self.u0.reshape(-1)

    def flat_p(self) -> Any:
        """All parameters as one contiguous vector (on the problem's device), with the values that tensors have now."""
        return self._tensor_values().p() if self._flat_p is None else self._flat_p

    def _tensor_values(self) -> TensorValues | DeviceValues:
        values = self._values
        if values is None:
            from ..arrays.tensors import DeviceValues, TensorValues

            kind = TensorValues if self.device is None else DeviceValues
            values = self.__dict__["_values"] = kind(self.u0, self.leaves, self.dtype)
        return values

    def _capture(self) -> Captured:
        if self.captured is not None:
            return self.captured
        shared = store(self.f)
        key = self._key()
        captured = shared.get(key)
        if captured is None:
            # The trace sees everything as it is now.
            self.__dict__["_reached"] = reach(self.f)
            key = self._key()
            captured = shared.get(key)
        if captured is None:
            captured = shared[key] = self._new_capture()
        self.__dict__.update(captured=captured, _captured_key=key)
        return captured

    def _key(self) -> Any:
        """What a captured model depends on, beside `f` itself."""
        shape = tuple(self.u0.shape)
        return (self.kind, shape, self.dtype, self.is_torch, self.layout, self.capture, self._fingerprint())

    def _fingerprint(self) -> Any:
        if self.capture == "callback":
            # Python sees everything as it is, but for the tensors that a solve puts values into.
            return (Same(self.f), *(Same(x) for _, x in self._modules))
        return source_key(self.f) if self._reached is None else self._reached.key

    def _new_capture(self) -> Captured:
        return Captured(self._capturing(self.f))

    def _argument(self, key: str) -> Any:
        """An argument of the class, as it can be passed again."""
        return self.span if key == "tspan" else getattr(self, key)

    def _changed_state(self, changes: dict[str, Any]) -> Any:
        """The state with what `remake` was told about it."""
        return changes.get("u0", self.u0)

    def _capturing(self, f: Any) -> Callable[[], CapturedModel]:
        # Lists of numbers are arrays by now.
        p = self.layout.rebuild(self.leaves[: self.layout.n_leaves])
        u0, t0, choice, reached, key = self.u0, self.tspan[0], self.capture, self._reached, self._key()
        is_torch = self.is_torch

        def trace() -> CapturedModel:
            from ..capture import capture

            if is_torch:
                from ..capture.torch.transforms import captured_outside

                return captured_outside(lambda u0, p: capture(f, u0, p, t0, capture=choice), f, u0, p)
            return capture(f, u0, p, t0, capture=choice)

        def build() -> CapturedModel:
            if reached is None or choice == "callback":
                return trace()
            with left_as_they_were(reached.containers):
                model, counters = counted(reached.numbers, trace)
            if counters:
                # From now on what counts evaluations is not looked at.
                shared = store(f)
                shared.counting |= {place_id(place) for place, _ in counters}
                shared.setdefault((*key[:-1], reach(f).key), shared.get(key))
            return model

        return build


def _remade(kind: type[ODEProblem], arguments: dict[str, Any]) -> ODEProblem:
    return kind(**arguments)


@opaque
def remake(problem: ODEProblem, **changes: Any) -> ODEProblem:
    """A problem like `problem`, with some of its arguments changed; its captured model is kept where it still fits.

    Parameters
    ----------
    changes
        Arguments of the problem's class: ``u0``, ``p``, ``tspan``, ``f``, …

    Raises
    ------
    TypeError
        For a name that is no argument of the problem's class.

    Examples
    --------
    >>> longer = remake(problem, tspan=(0.0, 100.0))
    """
    known = problem._arguments
    for key in changes:
        if key not in known:
            raise TypeError(f"{type(problem).__name__} has no argument {key!r}; it has {', '.join(known)}")
    out = object.__new__(type(problem))
    if any(key in changes for key in ("f", "f1", "f2")):
        out.__init__(**{key: changes[key] if key in changes else problem._argument(key) for key in known})
        return out
    out.__dict__["functions"] = problem.functions
    reached = reach(problem.f)
    as_before = reached is problem._reached or (reached is not None and reached.key == problem._reached.key)
    out._prepare(
        problem.f,
        problem._changed_state(changes),
        changes.get("tspan", problem.span),
        changes.get("p", problem.p),
        changes.get("capture", problem.capture),
        changes.get("jac_sparsity", problem.jac_sparsity),
        changes.get("mass_matrix", problem.mass_matrix),
        changes.get("name", problem.name),
        problem._modules if as_before else None,
        reached,
    )
    if problem.captured is not None and out._key() == problem._captured_key:
        out.__dict__.update(captured=problem.captured, _captured_key=problem._captured_key)
    return out


def with_state(problem: ODEProblem, state: Any, **changes: Any) -> ODEProblem:
    """`remake` with another whole state, which in a second-order or dynamical problem is velocity and position."""
    velocity = getattr(problem, "_velocity", None)
    parts = {"u0": state} if velocity is None else {velocity: state[0], "u0": state[1]}
    return remake(problem, **parts, **changes)


def with_model_of(problem: ODEProblem, other: ODEProblem) -> ODEProblem:
    """`problem`, which from now on uses the model captured for `other` and captures none of its own.

    A model written for NumPy stays so when its parameters become tensors: on flat vectors it is the same.

    Raises
    ------
    ValueError
        If the two differ in kind, shape of the state, dtype or places of the parameters.
    """
    for key in ("kind", "shape", "dtype"):
        if getattr(problem, key) != getattr(other, key):
            raise ValueError(f"other has another {key}: {getattr(other, key)}, not {getattr(problem, key)}")
    if list(problem.layout.slices) != list(other.layout.slices):  # a number may have become a tensor without dimensions
        raise ValueError("other has its parameters in other places")
    problem.__dict__.update(captured=other._capture(), _captured_key=problem._key())
    return problem


def with_values(problem: ODEProblem, u0: Any, p: Any) -> ODEProblem:
    """`problem` as one of torch's, with a tensor for the state and one flat tensor for all parameters.

    It keeps the model, and nothing is checked or captured again: this is for loops over many values.

    Parameters
    ----------
    u0
        Of the problem's shape and dtype.
    p
        Shape ``(layout.size,)``; parameters of modules are part of it.
    """
    captured = problem._capture()
    leaves = problem.layout.split(p)
    out = object.__new__(type(problem))
    out.__dict__.update(problem.__dict__)
    out.__dict__.update(u0=u0, leaves=leaves, tensors=leaves, captured=captured, is_torch=True, _flat_p=None, _values=None)
    return out


def posed(f: Any, u0: Any, tspan: Any, modules: list[tuple[str, Any]], capture: str = "auto") -> ODEProblem:
    """An `ODEProblem` without `p`, with these as the trainable tensors that `f` reaches."""
    problem = object.__new__(ODEProblem)
    problem.__dict__["functions"] = (f,)
    problem._prepare(f, u0, tspan, None, capture, None, None, None, modules)
    return problem


def reach(f: Any) -> Reached | None:
    """What `f` reaches now; None for what is no function, such as Julia source."""
    return reached_by(f, store(f).counting) if callable(f) else None


def source_key(f: Any) -> Any:
    """What tells a file of Julia source from what it was before."""
    if not isinstance(f, (str, os.PathLike)) or not os.path.isfile(f):
        return None
    status = os.stat(f)
    return (status.st_mtime_ns, status.st_size)


def _as_floats_of(leaves: list[Any], u0: Any) -> Any:
    """Numbers without a dtype take that of the first floating tensor among the parameters."""
    for x in leaves:
        if is_tensor(x) and x.is_floating_point() and not any(map(is_tensor, u0 if isinstance(u0, (list, tuple)) else ())):
            array = np.array(u0)
            if array.dtype.kind in "iuf":
                return array.astype(str(x.dtype).removeprefix("torch."))
    return u0
