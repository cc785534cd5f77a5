"""What every kind of problem is: functions with signatures, values, and how both become a captured model.

A kind of problem is a class that declares itself: `signatures` says what its functions take and return, `form` in which form SciML
solves it. Nothing else asks which kind it carries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from ..arrays.checks import TimeSpan, check_leaves, check_matrix, check_resolution, check_time_span, state_of
from ..arrays.devices import device_of, torch_device
from ..arrays.parameters import ParameterLayout, flat_array, is_tensor
from ..arrays.torch_compile import opaque
from ..capture.compiled_model import CompiledModel, store
from ..capture.parts import Same
from ..capture.reach import Reached, reached_by
from ..capture.state_changes import counted, left_as_they_were, place_id
from .declarations import FIRST_ORDER, Form, Signature
from .functions import check_python, out_of_place, stacked

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..arrays.tensors import DeviceValues, TensorValues
    from ..graphs.captured_model import CapturedModel

ProblemT = TypeVar("ProblemT", bound="Problem")


class Problem:
    """Base of the kinds of problems; not used itself.

    A problem does not change: :func:`remake` makes another.
    """

    f: Any
    functions: Mapping[str, Any]
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
    captured: CompiledModel | None
    _flat_p: np.ndarray | None
    _modules: list[tuple[str, Any]]
    _reached: Reached | None
    _values: TensorValues | DeviceValues | None
    _captured_key: Any

    signatures: ClassVar[Mapping[str, Signature]] = {"f": Signature()}
    """The functions of this kind of problem, by the names of its arguments."""
    form: ClassVar[Form] = FIRST_ORDER
    """In which form SciML solves it."""
    velocity: ClassVar[str | None] = None
    """The argument that is stacked on ``u0`` in the state ``[v, u]``, if there is one."""
    second_order: ClassVar[bool | None] = True
    """Of a state ``[v, u]``, whether ``du/dt = v``; None where the model decides."""
    ensemble: ClassVar[Literal[False]] = False
    """Whether it is many problems."""
    deterministic: ClassVar[bool] = True
    """Whether two solves of one problem give the same: some gradients solve again."""
    _arguments: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's arguments."""

    def _prepare(
        self,
        functions: Mapping[str, Any],
        u0: Any,
        tspan: Any,
        p: Any = None,
        *,
        capture: str = "auto",
        jac_sparsity: Any = None,
        mass_matrix: Any = None,
        name: str | None = None,
        modules: list[tuple[str, Any]] | None = None,
        reached: Reached | None = None,
    ) -> None:
        """Check the arguments and set all fields; `modules` and `reached` where it is known what the functions reach."""
        if self.form.families:  # their first-order system is made of them in Python
            for function_name, function in functions.items():
                check_python(function, function_name)
        vars(self)["functions"] = functions
        f = self._whole()[0]
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
        vars(self).update(
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
            _captured_key=None,
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a problem does not change; make another with remake(problem, {name}=…)")

    def __copy__(self) -> Self:
        return self._copy()

    def _copy(self, **changes: Any) -> Self:
        """Another problem with some of the fields changed: nothing is checked or captured again."""
        out = object.__new__(type(self))
        vars(out).update(vars(self), **changes)
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
    def parts(self) -> Mapping[str, CapturedModel]:
        """The models of the functions that `form` takes on their own, by name; captured when first asked for."""
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

    def flat_values(self) -> dict[str, Any]:
        """`flat_u0` and `flat_p` by name."""
        return {"u0": self.flat_u0(), "p": self.flat_p()}

    def _tensor_values(self) -> TensorValues | DeviceValues:
        values = self._values
        if values is None:
            from ..arrays.tensors import DeviceValues, TensorValues

            kind = TensorValues if self.device is None else DeviceValues
            values = vars(self)["_values"] = kind(self.u0, self.leaves, self.dtype)
        return values

    def _capture(self) -> CompiledModel:
        if self.captured is not None:
            return self.captured
        shared = store(self.f)
        key = self._key()
        captured = shared.get(key)
        if captured is None:
            # The trace sees everything as it is now.
            vars(self)["_reached"] = reach(self.f)
            key = self._key()
            captured = shared.get(key)
        if captured is None:
            captured = shared[key] = self._new_capture()
        vars(self).update(captured=captured, _captured_key=key)
        return captured

    def _key(self) -> Any:
        """What a captured model depends on, beside `f` itself."""
        shape = tuple(self.u0.shape)
        return (type(self), shape, self.dtype, self.is_torch, self.layout, self.capture, self._fingerprint())

    def _fingerprint(self) -> Any:
        if self.capture == "callback":
            # Python sees everything as it is, but for the tensors that a solve puts values into.
            return (Same(self.f), *(Same(x) for _, x in self._modules))
        return source_key(self.f) if self._reached is None else self._reached.key

    def _whole(self) -> tuple[Any, Mapping[str, Any]]:
        """The right-hand side of the first-order system, and the functions of the form's parts, all on the whole state.

        The same objects each time, so that captures are shared.
        """
        first, *others = self.functions.values()
        if not self.form.families:
            return first, {}
        shared = store(first)
        key = (type(self), *others)
        found = shared.get(key)
        if found is None:
            functions = {name: out_of_place(f, len(self.signatures[name].inputs)) for name, f in self.functions.items()}
            found = shared[key] = self._first_order(**functions), {name: functions[name] for name in self.form.parts}
        return found

    @staticmethod
    def _first_order(**functions: Callable[..., Any]) -> Callable[..., Any]:
        """The right-hand side ``f(x, p, t)`` of the first-order system, made of functions that return what they compute."""
        raise NotImplementedError

    def _new_capture(self) -> CompiledModel:
        f, parts = self._whole()
        output = self.signatures["f"].shape(self.shape) if not self.form.families else self.shape
        return CompiledModel(
            self._capturing(f, output),
            {name: self._capturing(part, self.signatures[name].shape(self.shape)) for name, part in parts.items()},
        )

    def _capturing(self, f: Any, output: tuple[int, ...]) -> Callable[[], CapturedModel]:
        # Lists of numbers are arrays by now.
        p = self.layout.rebuild(self.leaves[: self.layout.n_leaves])
        u0, t0, choice, reached, key = self.u0, self.tspan[0], self.capture, self._reached, self._key()
        is_torch = self.is_torch

        def trace() -> CapturedModel:
            from ..capture import capture

            if is_torch:
                from ..capture.torch.transforms import captured_outside

                return captured_outside(lambda u0, p: capture(f, u0, p, t0, capture=choice, output=output), f, u0, p)
            return capture(f, u0, p, t0, capture=choice, output=output)

        def build() -> CapturedModel:
            if reached is None or choice == "callback":
                return trace()
            with left_as_they_were(reached.containers):
                model, counters = counted(reached.numbers, trace)
            if counters:
                # From now on counters of evaluations are not part of the key.
                shared = store(f)
                shared.counting |= {place_id(place) for place, _ in counters}
                shared.setdefault((*key[:-1], reached_by(f, shared.counting).key), shared.get(key))
            return model

        return build

    def _argument(self, key: str) -> Any:
        """An argument of the class, as it can be passed again."""
        if key in self.signatures:
            return self.functions[key]
        if self.velocity is not None and key in (self.velocity, "u0"):
            return self.u0[1 if key == "u0" else 0]
        return self.span if key == "tspan" else getattr(self, key)

    def _changed_state(self, changes: dict[str, Any]) -> Any:
        """The state with the changes that `remake` got."""
        velocity = self.velocity
        if velocity is None:
            return changes.get("u0", self.u0)
        if velocity not in changes and "u0" not in changes:
            return self.u0
        return stacked(changes.get(velocity, self.u0[0]), changes.get("u0", self.u0[1]), velocity)

    def with_state(self, state: Any, **changes: Any) -> Self:
        """`remake` with another whole state, which in a second-order or dynamical problem is velocity and position."""
        parts = {"u0": state} if self.velocity is None else {self.velocity: state[0], "u0": state[1]}
        return remake(self, **parts, **changes)


def check_problem(problem: object) -> None:
    """Refuse anything but a problem.

    Raises
    ------
    TypeError
        Naming what was given.
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be an ODEProblem, not {type(problem).__name__}")


def _remade(kind: type[Problem], arguments: dict[str, Any]) -> Problem:
    return kind(**arguments)


@opaque
def remake(problem: ProblemT, **changes: Any) -> ProblemT:
    """Return a problem like `problem` with some arguments changed; it keeps the captured model where that still fits.

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
    if not problem.signatures.keys().isdisjoint(changes):
        return type(problem)(**{key: changes[key] if key in changes else problem._argument(key) for key in known})
    out = object.__new__(type(problem))
    reached = reach(problem.f)
    before = problem._reached
    as_before = reached is before or (reached is not None and before is not None and reached.key == before.key)
    out._prepare(
        problem.functions,
        problem._changed_state(changes),
        changes.get("tspan", problem.span),
        changes.get("p", problem.p),
        capture=changes.get("capture", problem.capture),
        jac_sparsity=changes.get("jac_sparsity", problem.jac_sparsity),
        mass_matrix=changes.get("mass_matrix", problem.mass_matrix),
        name=changes.get("name", problem.name),
        modules=problem._modules if as_before else None,
        reached=reached,
    )
    if problem.captured is not None and out._key() == problem._captured_key:
        return out._copy(captured=problem.captured, _captured_key=problem._captured_key)
    return out


def with_model_of(problem: Problem, other: Problem) -> Problem:
    """Return `problem` with the model captured for `other`, so that it captures none itself.

    A model written for NumPy stays so when its parameters become tensors: on flat vectors it is the same.

    Raises
    ------
    ValueError
        If the two differ in kind, shape of the state, dtype or places of the parameters.
    """
    if type(problem) is not type(other):
        raise ValueError(f"other is a {type(other).__name__}, not a {type(problem).__name__}")
    for key in ("shape", "dtype"):
        if getattr(problem, key) != getattr(other, key):
            raise ValueError(f"other has another {key}: {getattr(other, key)}, not {getattr(problem, key)}")
    if list(problem.layout.slices) != list(other.layout.slices):  # a number may have become a tensor without dimensions
        raise ValueError("other has its parameters in other places")
    return problem._copy(captured=other._capture(), _captured_key=problem._key())


def with_values(problem: Problem, u0: Any, p: Any) -> Problem:
    """`problem` as one of torch's, with a tensor for the state and one flat tensor for all parameters.

    It keeps the model, and nothing is checked or captured again: this is for loops over many values.

    Parameters
    ----------
    u0
        A state of the problem's shape and dtype.
    p
        Shape ``(layout.size,)``; parameters of modules are part of it.
    """
    captured = problem._capture()
    leaves = problem.layout.split(p)
    return problem._copy(u0=u0, leaves=leaves, tensors=leaves, captured=captured, is_torch=True, _flat_p=None, _values=None)


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
