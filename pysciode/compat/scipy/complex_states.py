"""Complex numbers over pairs of real symbols, so that ``fun`` of a complex state can be captured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

import numpy as np

from ...errors import CaptureError
from ...graphs.numpy_protocol import apply_op


class Complex:
    """``real + 1j imag``, where the parts are symbols or numbers, with the arithmetic of a Python number.

    NumPy's loops over arrays of objects call its operators, and methods of the ufuncs' names.
    """

    __slots__ = ("real", "imag")

    def __init__(self, real: Any, imag: Any = 0.0) -> None:
        self.real = real
        self.imag = imag

    def __add__(self, other: Any) -> Any:
        b = _of(other)
        return b if b is NotImplemented else Complex(self.real + b.real, self.imag + b.imag)

    __radd__ = __add__

    def __neg__(self) -> Complex:
        return Complex(-self.real, -self.imag)

    def __pos__(self) -> Complex:
        return self

    def __sub__(self, other: Any) -> Any:
        b = _of(other)
        return b if b is NotImplemented else Complex(self.real - b.real, self.imag - b.imag)

    def __rsub__(self, other: Any) -> Any:
        b = _of(other)
        return b if b is NotImplemented else b - self

    def __mul__(self, other: Any) -> Any:
        b = _of(other)
        if b is NotImplemented:
            return b
        if _is_zero(b.imag):
            return Complex(self.real * b.real, self.imag * b.real)
        if _is_zero(self.imag):
            return Complex(self.real * b.real, self.real * b.imag)
        return Complex(self.real * b.real - self.imag * b.imag, self.real * b.imag + self.imag * b.real)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        b = _of(other)
        if b is NotImplemented:
            return b
        if _is_zero(b.imag):
            return Complex(self.real / b.real, self.imag / b.real)
        size = b.real * b.real + b.imag * b.imag
        product = self * b.conjugate()
        return Complex(product.real / size, product.imag / size)

    def __rtruediv__(self, other: Any) -> Any:
        b = _of(other)
        return b if b is NotImplemented else b / self

    def __pow__(self, other: Any) -> Any:
        b = _of(other)
        if b is NotImplemented:
            return b
        if _is_zero(b.imag) and isinstance(b.real, (int, float)) and float(b.real).is_integer() and abs(b.real) <= 64:
            power = _integer_power(self, abs(int(b.real)))
            return power if b.real >= 0 else 1.0 / power
        if _is_zero(self.imag) and _is_zero(b.imag):
            return Complex(self.real**b.real)
        return (self.log() * b).exp()

    def __rpow__(self, other: Any) -> Any:
        b = _of(other)
        return b if b is NotImplemented else b**self

    def __abs__(self) -> Any:
        return Complex(apply_op("sqrt", self.real * self.real + self.imag * self.imag))

    def conjugate(self) -> Complex:
        return Complex(self.real, -self.imag)

    conj = conjugate

    def exp(self) -> Complex:
        size = apply_op("exp", self.real)
        return Complex(size * apply_op("cos", self.imag), size * apply_op("sin", self.imag))

    def log(self) -> Complex:
        return Complex(apply_op("log", abs(self).real), apply_op("atan2", self.imag, self.real))

    def sqrt(self) -> Complex:
        return (self.log() * 0.5).exp()

    def sin(self) -> Complex:
        a, b = self.real, self.imag
        return Complex(apply_op("sin", a) * apply_op("cosh", b), apply_op("cos", a) * apply_op("sinh", b))

    def cos(self) -> Complex:
        a, b = self.real, self.imag
        return Complex(apply_op("cos", a) * apply_op("cosh", b), -(apply_op("sin", a) * apply_op("sinh", b)))

    def square(self) -> Complex:
        return self * self

    def _compare(self, *_: Any) -> Any:
        raise CaptureError("a comparison of the state or the time in a complex model", operation="complex comparison")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _compare  # type: ignore[assignment]
    __bool__ = __float__ = __int__ = __complex__ = __index__ = _compare
    __hash__ = object.__hash__


def _of(x: Any) -> Any:
    if isinstance(x, Complex):
        return x
    if _has_parts(x):
        return Complex(x.real, x.imag)
    return NotImplemented


def _has_parts(x: Any) -> bool:
    return isinstance(x, (Number, np.number)) or hasattr(x, "graph")


def _is_zero(x: Any) -> bool:
    return isinstance(x, (int, float)) and x == 0


def _integer_power(x: Complex, k: int) -> Any:
    out: Any = Complex(1.0)
    while k:
        if k & 1:
            out = out * x
        x, k = x * x, k >> 1
    return out


class ComplexArray(np.ndarray):
    """An object array of `Complex`, whose parts are what they are of complex numbers."""

    @property
    def real(self) -> ComplexArray:  # type: ignore[override]
        return _real(self).view(ComplexArray)

    @property
    def imag(self) -> ComplexArray:  # type: ignore[override]
        return _imag(self).view(ComplexArray)


_real: Any = np.frompyfunc(lambda x: Complex(x.real), 1, 1)
_imag: Any = np.frompyfunc(lambda x: Complex(x.imag), 1, 1)


def pairs(u: Sequence[Any]) -> ComplexArray:
    """Real and imaginary parts in turn, as one complex array."""
    return whole([Complex(real, imag) for real, imag in zip(u[::2], u[1::2], strict=True)])


def whole(x: Sequence[Any]) -> ComplexArray:
    """An array of `Complex`, made also of real numbers."""
    out = np.empty(len(x), object)
    out[:] = [y if isinstance(y, Complex) else Complex(y) for y in x]
    return out.view(ComplexArray)


def parts(x: Iterable[Any]) -> list[Any]:
    """Real and imaginary parts in turn."""
    return [part for y in x for part in (y.real, y.imag)]
