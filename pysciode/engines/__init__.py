"""The choice of an engine."""

from __future__ import annotations

import copyreg
import os
import sys
from typing import TYPE_CHECKING, Any, Literal, overload

from ..errors import EngineUnavailable
from .base import Engine
from .julia.environment import Trouble, find_trouble

if TYPE_CHECKING:
    from .julia.engine import JuliaEngine

NAMES = ("auto", "julia", "embedded")

_chosen = os.environ.get("PYSCIODE_ENGINE", "auto")
_engines: dict[Any, Engine] = {}
_automatic: Engine | None = None


def set_engine(name: str) -> None:
    """Set the engine for solves that name none; at the start it is ``"auto"``, or the environment's PYSCIODE_ENGINE.

    Parameters
    ----------
    name
        ``"auto"`` takes Julia where it is installed and otherwise the embedded engine, and says so once; it never
        installs anything.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    global _chosen
    _check(name)
    _chosen = name


@overload
def get_engine(name: Literal["julia"]) -> JuliaEngine: ...
@overload
def get_engine(name: str | Engine | None = None) -> Engine: ...
def get_engine(name: str | Engine | None = None) -> Engine:
    """The engine called `name`; None is the one set by :func:`set_engine`.

    Raises
    ------
    ValueError
        For an unknown name.
    EngineUnavailable
        If Julia was asked for by name and is not available.
    """
    found = _engines.get(name)
    if found is not None:
        return found
    if isinstance(name, Engine):
        return name
    if name is None:
        name = _chosen
    _check(name)
    if name == "auto":
        return _auto()
    if name not in _engines:
        _engines[name] = _make(name)
    return _engines[name]


def _check(name: object) -> None:
    if name not in NAMES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, NAMES))}, not {name!r}")


def _make(name: str) -> Engine:
    if name == "julia":
        from .julia.engine import JuliaEngine

        copyreg.pickle(JuliaEngine, _by_name)
        return JuliaEngine()
    from .embedded.engine import EmbeddedEngine

    return EmbeddedEngine()


def _by_name(engine: Engine) -> tuple:
    return (get_engine, (engine.name,))  # each process has its own


def julia_is_installed() -> bool:
    """Whether the Julia engine can start without installing anything."""
    try:
        from .julia.engine import JuliaEngine
    except ImportError:
        return False
    return JuliaEngine.is_installed()


def empty_cache() -> None:
    """Free the GPU memory that CUDA.jl keeps for later solves, as ``torch.cuda.empty_cache()`` frees torch's.

    It does nothing if nothing was solved on a GPU; otherwise it collects Julia's garbage, which takes some tenths of a second.
    """
    get_engine("julia").empty_device_caches()


def _auto() -> Engine:
    # Looked up once: a solve must not pay for asking whether Julia is there.
    global _automatic
    if _automatic is None:
        trouble = _try_julia()
        if trouble is None:
            _automatic = get_engine("julia")
        else:
            print(
                f"pysciode: the Julia engine is not available ({trouble.reason}), so the embedded engine (torchdiffeq) solves, which has "
                f"few of SciML's methods. {trouble.mend}",
                file=sys.stderr,
            )
            _automatic = get_engine("embedded")
    return _automatic


def _try_julia() -> Trouble | EngineUnavailable | None:
    """Start Julia where it is installed; return the obstacle, or None."""
    trouble = find_trouble()
    if trouble is None:
        try:
            get_engine("julia").start()
        except EngineUnavailable as error:
            return error
    return trouble
