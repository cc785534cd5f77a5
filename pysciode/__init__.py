"""Write the model in Python; Julia's SciML solves it with any solver and any adjoint; NumPy and torch get the answer and
the gradient."""

from __future__ import annotations

from typing import Any

import lazy_loader

# Nothing is imported before it is used, so that `import pysciode` is quick. The stub has the names, for editors and for this.
_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    return _attribute(name)
