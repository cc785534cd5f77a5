"""What a function computes with beside its arguments: closure, globals, defaults, attributes, containers, helper functions.

Python looks each of these up whenever the function is called. A captured model must behave as if it did, and at a price of
microseconds. :class:`Reached` therefore walks over all that a function can read, whenever a problem is made: trainable tensors
are parameters of the model; numbers can be parameters too, so that other values (or a new closure made in a loop) need no new
capture; everything else goes into a key, so that a change of it does. The package has no other walk of this kind.

Of an object, those attributes count whose names are in the code that is reached: a module may hold an optimiser or a history
that its ``forward`` never reads.
"""

from __future__ import annotations

import functools
import operator
import sys
import zlib
from collections import deque
from collections.abc import Hashable
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from .code_reads import reads_of
from .parts import ADAPTER, ANY, NOTES, NOTHING, NUMBERS, OURS, Part, Same, describe, parts_of_class, parts_of_function, users_bases
from .state_changes import Place, place_id

LARGE = 64
"""Arrays with more entries are constants: structural zeros count, and they seldom change."""

ATOMS = frozenset({int, str, bytes, bool, type(None)})
_REPRESENTED = frozenset({complex, range, slice, type(Ellipsis), type(NotImplemented)})
_WHOLE = 1 << 16  # Bytes of an array that are kept in a key; of a larger one a checksum is.
_TORCH = frozenset({"torch", "functorch", "torch_geometric", "torchvision"})
_BY_ANY_NAME = (operator.attrgetter, operator.methodcaller)


class Reached:
    """What `f` reaches now.

    Parameters
    ----------
    f, args
        The function, and what it is given beside time and state.
    level
        One of `NUMBERS`, `FLOATS`, `NOTHING`.
    counting
        Identities of places, as :func:`place_id` gives them, whose integers count evaluations and are not part of the key.
    changing
        Names of tensors that are not trained and yet count among `tensors`, since their values change from solve to solve.

    Attributes
    ----------
    key
        Equal for functions that compute the same from equal `tensors` and `values`.
    tensors
        Trainable tensors, each once, by a name that says where; tied ones under their first name.
    constants
        Other floating tensors and their versions, by such names; part of the key.
    values
        Floats, integers and float arrays that become parameters at this level, in an order that the key determines.
    numbers
        Places of integers.
    containers
        What can be changed in place: lists, dicts and sets, those that hold attributes among them.
    transformed
        Places of tensors that torch.func transforms.
    modules
        The ``nn.Module`` objects.
    names
        The attributes that are read of objects.
    opaque
        Whether there is an object that can't be looked into; it counts as unchanged while it is the same one.
    uses_torch
        Whether anything of torch's is among all this.
    """

    def __init__(
        self,
        f: Any,
        args: tuple[Any, ...] = (),
        level: int = NOTHING,
        counting: frozenset[Hashable] = frozenset(),
        changing: frozenset[str] = frozenset(),
    ) -> None:
        self.level = level
        self._counting, self._changing = counting, changing
        self._torch: Any = sys.modules.get("torch")
        self._transforming = self._torch is not None and self._torch._C._are_functorch_transforms_active()
        root = _root_of(f)
        names = _names.get(root, _NO_NAMES)
        while True:
            # Code that is found late may read more of objects that were seen early.
            self._names = set(names)
            self._walk(f, args)
            if len(self._names) == len(names):
                break
            names = _names[root] = frozenset(self._names)
        self.names = names
        if self._cyclic and level != NOTHING:
            self.level = NOTHING
            self._walk(f, args)
        self.key = (self.level, tuple(self._key))

    def flat(self) -> np.ndarray:
        """The values as one vector, arrays in C order."""
        values = self.values
        if any(isinstance(x, np.ndarray) for x in values):
            return np.concatenate([np.ravel(x) for x in values]).astype(float, copy=False)
        return np.array(values, float)

    def _walk(self, f: Any, args: tuple[Any, ...]) -> None:
        self._key: list[Hashable] = []
        self.tensors: dict[str, Any] = {}
        self.constants: dict[str, tuple[Any, int]] = {}
        self.values: list[Any] = []
        self.numbers: list[Place] = []
        self.containers: list[Any] = []
        self.transformed: list[Place] = []
        self.modules: list[Any] = []
        self.opaque = self.uses_torch = self._cyclic = False
        self._done: dict[tuple[int, int], int] = {}
        self._held: list[Any] = []  # what was seen stays alive, so that no other object comes to have its number
        self._visit(f, "", self.level)
        if args:
            self._visit(args, "", self.level)

    def _visit(self, x: Any, name: str, level: int) -> None:
        kind = type(x)
        note = self._key.append
        if level != NOTHING and is_parameter(x, level):
            self.values.append(x)
            note("x" if kind is not np.ndarray else ("array", x.shape))
        elif kind in ATOMS:
            note(kind)
            note(x)
        elif kind is float or isinstance(x, np.generic):
            note(kind)
            note(repr(x))
        elif kind is np.ndarray and x.dtype != object:
            note((x.dtype.str, x.shape, contents(x)))
        elif self._torch is not None and isinstance(x, self._torch.Tensor):
            self.uses_torch = True
            self._tensor(x, name)
        else:
            place = (id(x), level)
            number = self._done.get(place)
            if number is not None:
                self._cyclic |= number < 0
                note(("again", abs(number)))
                return
            number = self._see(x, level)
            self._done[place] = -number
            self._look_into(x, kind, name, level)
            self._done[place] = number

    def _see(self, x: Any, level: int = NOTHING) -> int:
        self._held.append(x)
        number = self._done[id(x), level] = len(self._held)
        return number

    def _look_into(self, x: Any, kind: type, name: str, level: int) -> None:
        if kind is FunctionType:
            reads = reads_of(x.__code__)
            self._names |= reads.attributes
            if reads.by_any_name:
                self._names.add(ANY)
            self._note_torch(x.__module__)
            self._key.append(reads)
            self._visit_parts(parts_of_function(x), name, level)
        elif self._torch is not None and isinstance(x, self._torch.nn.Module):
            self.uses_torch = True
            self._tree_of_modules(x, name)
        elif kind in _REPRESENTED or (self._torch is not None and isinstance(x, self._torch.device)):
            self._key.append((kind, repr(x)))
        else:
            described = describe(x, self._names)
            if not self.uses_torch:
                owner = getattr(x, "__self__", None)
                for y in (*kind.__mro__, *(x.__mro__ if isinstance(x, type) else (x, owner))):
                    self._note_torch(y.__name__ if isinstance(y, ModuleType) else getattr(y, "__module__", None))
            if described is None:
                self._key.append(Same(x))
                self.opaque |= not _is_code(x)
                if isinstance(x, _BY_ANY_NAME):
                    self._names.add(ANY)
                return
            head, parts, _ = described
            self._key.append(head)
            if isinstance(x, (list, dict, set, deque)):
                self.containers.append(x)
            elif hasattr(x, "__dict__") and not isinstance(x, (ModuleType, type)):
                self.containers.append(vars(x))
            self._visit_parts(parts, name, level)

    def _visit_parts(self, parts: list[Part], name: str, level: int) -> None:
        for part, value, least, where in parts:
            if type(value) is int and where is not None and self._counts(where, part):
                continue
            if self._transforming:
                self._note_transformed(where, part, value)
            self._visit(value, _join(name, part), least if least > level else level)

    def _counts(self, where: Any, part: Any) -> bool:
        """Whether the integer kept there counts evaluations."""
        if type(where) is tuple:
            return False
        place = (where, None if type(where) is CellType else part)
        self.numbers.append(place)
        return place_id(place) in self._counting

    def _note_transformed(self, where: Any, part: Any, value: Any) -> None:
        if where is None or type(where) is tuple or not isinstance(value, self._torch.Tensor):
            return
        if self._torch._C._functorch.is_functorch_wrapped_tensor(value):
            self.transformed.append((where, None if type(where) is CellType else part))

    def _note_torch(self, module: Any) -> None:
        if isinstance(module, str) and module.partition(".")[0] in _TORCH:
            self.uses_torch = True

    def _tree_of_modules(self, root: Any, name: str) -> None:
        tree: list[tuple[Any, str]] = []
        self._module(root, name, tree)
        # Parameters come first, in torch's order; then what else the modules hold.
        for module, path in tree:
            self._attributes_of_module(module, path)

    def _module(self, module: Any, name: str, tree: list[tuple[Any, str]]) -> None:
        note = self._key.append
        note(Same(module))
        note(module.training)
        self.modules.append(module)
        tree.append((module, name))
        self.containers.append(vars(module))
        for kept in (module._parameters, module._buffers):
            self.containers.append(kept)
            for part, x in kept.items():
                if x is not None:
                    if self._transforming:
                        self._note_transformed(kept, part, x)
                    note(part)
                    self._tensor(x, _join(name, part))
        for part, x in module._modules.items():
            note(part)
            number = self._done.get((id(x), NOTHING))
            if number is not None:
                note(abs(number))
            elif x is not None:
                self._see(x)
                self._module(x, _join(name, part), tree)

    def _attributes_of_module(self, module: Any, name: str) -> None:
        own = vars(module)
        users = users_bases(type(module))
        names = self._names if users and ANY not in self._names else None
        usual, notes = _attributes_of_every_module(), getattr(type(module), NOTES, ())
        for part, value in own.items():
            if part in usual or part in notes or (names is not None and part not in names):
                continue
            if (type(value) is int and self._counts(own, part)) or is_recomputed(module, part):
                continue
            if self._transforming:
                self._note_transformed(own, part, value)
            self._key.append(part)
            self._visit(value, _join(name, part), NOTHING)
        compiled = own.get("_concrete_type")
        if compiled is not None:  # TorchScript keeps attributes where Python does not see them
            for part in compiled.get_attributes():
                self._key.append(part)
                self._visit(module._c.getattr(part), _join(name, part), NOTHING)
        for hooks in (own.get("_forward_hooks"), own.get("_forward_pre_hooks"), own.get("forward")):
            if hooks:
                self._visit(tuple(hooks.values()) if hasattr(hooks, "values") else hooks, name, NOTHING)
        for part, value, *_ in parts_of_class(users, self._names):
            self._key.append(part)
            self._visit(value, name if isinstance(value, FunctionType) else _join(name, part), NOTHING)

    def _tensor(self, x: Any, name: str) -> None:
        number = self._done.get((id(x), NOTHING))
        again = number is not None
        if not again:
            number = self._see(x)
        if x.requires_grad or name in self._changing or self._torch._C._functorch.is_functorch_wrapped_tensor(x):
            self._key.append((name, x.shape, x.dtype, number if again else 0))
            if not again:
                self.tensors[_free(name or "parameter", self.tensors)] = x
        else:
            version = 0 if x.is_inference() else x._version
            self._key.append((x.shape, x.dtype, self._contents_of(x, version)))
            if x.is_floating_point():
                self.constants.setdefault(name, (x, version))

    def _contents_of(self, x: Any, version: int) -> Hashable:
        """A tensor's values where they lie in main memory: its version does not tell of changes through ``x.data`` or NumPy."""
        torch = self._torch
        if type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu" and x.layout is torch.strided:
            try:
                return contents(x.detach().numpy())
            except (TypeError, RuntimeError):
                pass  # such as bfloat16, which NumPy lacks
        return (Same(x), version)


_NO_NAMES: frozenset[str] = frozenset()
_names: WeakKeyDictionary[Any, frozenset[str]] = WeakKeyDictionary()
"""The attributes that are read of objects, for the codes and classes from which walks start."""


def _root_of(f: Any) -> Any:
    """What tells functions apart whose walks find the same code: the code, or the class of an object."""
    while isinstance(f, (MethodType, functools.partial)):
        f = f.__func__ if isinstance(f, MethodType) else f.func
    return f.__code__ if isinstance(f, FunctionType) else type(f)


def is_parameter(x: Any, level: int) -> bool:
    """Whether `x` is a value that becomes a parameter at this level."""
    if level == NOTHING:
        return False
    kind = type(x)
    if kind is float or isinstance(x, np.floating):
        return True
    if kind is int or isinstance(x, np.integer):
        return level == NUMBERS
    return kind is np.ndarray and x.dtype.kind == "f" and x.size <= LARGE


def contents(x: np.ndarray) -> Hashable:
    """The bytes of an array, or of a large one their number and a checksum."""
    if x.nbytes <= _WHOLE:
        return x.tobytes()
    return (x.nbytes, zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data))


def _is_code(x: Any) -> bool:
    """Functions of libraries, classes and modules: they don't hold values that change."""
    return isinstance(x, (BuiltinFunctionType, FunctionType, type, np.ufunc, ModuleType)) or (
        callable(x) and type(x).__name__.startswith(("builtin_", "_ArrayFunction", "method", "wrapper", "OpOverload"))
    )


@functools.lru_cache(maxsize=1)
def _attributes_of_every_module() -> frozenset[str]:
    return OURS | vars(sys.modules["torch"].nn.Module()).keys()


def is_recomputed(module: Any, name: str) -> bool:
    """Whether a hook makes the attribute anew before each call, as pruning and the older weight and spectral norms do."""
    parameters = module._parameters
    return f"{name}_orig" in parameters or f"{name}_v" in parameters


def _join(name: str, part: object) -> str:
    return f"{name}.{part}" if name and part != "" else name or str(part)


def _free(name: str, taken: dict[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def reached_by(f: Any, counting: frozenset[Hashable] = frozenset()) -> Reached:
    """What `f` reaches now; of an adapter, what it has found already."""
    adapter = getattr(f, "__dict__", {}).get(ADAPTER)
    return Reached(f, counting=counting) if adapter is None else adapter.reached


def mentions_torch(f: Any) -> bool:
    """Whether `f`, or a function of the user's that it calls, names anything of torch's."""
    return reached_by(f).uses_torch
