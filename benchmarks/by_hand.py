"""Julia by hand, in this process: by_hand.jl through the same Julia that pysciode uses."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from measure import TimesItself


@cache
def included(file: str) -> Any:
    """Julia's Main after including a file of this directory."""
    from pysciode.engines.julia.runtime import start_julia

    start_julia()
    import juliacall

    juliacall.Main.include(str(Path(__file__).with_name(file)))
    return juliacall.Main


def julia(task: str, *data: np.ndarray) -> TimesItself:
    """The median of one function of by_hand.jl, timed inside Julia: no crossing is part of it.

    With `data`, the function of by_hand.jl is called with it once and returns what is timed.
    """
    module = included("by_hand.jl").ByHand
    function = getattr(module, task)
    if data:
        function = function(*data)
    return TimesItself(lambda: float(module.median_milliseconds(function)))
