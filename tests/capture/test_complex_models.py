"""Models that compute with complex numbers inside, Fourier transforms above all: values and gradients are torch's."""

from __future__ import annotations

import math

import numpy as np
import pytest

import pysciode as ps

torch = pytest.importorskip("torch")
pytest.importorskip("torch._subclasses.complex_tensor", reason="torch 2.10 or later takes complex tensors apart")

from pysciode.capture.torch.array_capture import capture_torch  # noqa: E402
from pysciode.compat.torchdiffeq import odeint  # noqa: E402

F64 = torch.float64
N = 8
K, KR = torch.fft.fftfreq(N, 1 / N).to(F64), torch.fft.rfftfreq(N, 1 / N).to(F64)
Z = torch.complex(torch.cos(torch.arange(N, dtype=F64)), torch.sin(2 * torch.arange(N, dtype=F64)))


def without_high_ones(u):
    v = torch.fft.rfft(u)
    v[3:] = 0
    return torch.fft.irfft(v, n=N)


MODELS = {
    "derivative": lambda u: torch.fft.ifft(1j * K * torch.fft.fft(u)).real,
    "derivative of real ones": lambda u: torch.fft.irfft(1j * KR * torch.fft.rfft(u), n=N),
    "filter": lambda u: torch.fft.ifft(Z * torch.fft.fft(u)).real,
    "ortho": lambda u: torch.fft.irfft(torch.fft.rfft(u, norm="ortho") * KR, norm="ortho"),
    "forward": lambda u: torch.fft.irfft(torch.fft.rfft(u, norm="forward") * KR, n=N, norm="forward"),
    "padded": lambda u: torch.fft.irfft(torch.fft.rfft(u, n=12), n=N),
    "odd": lambda u: torch.cat([torch.fft.irfft(torch.fft.rfft(u), n=7), u[:1]]),
    "abs": lambda u: torch.fft.fft(u).abs(),
    "angle": lambda u: torch.fft.fft(u + torch.arange(N)).angle(),
    "power": lambda u: (torch.fft.fft(u) * torch.fft.fft(u).conj()).real,
    "exp": lambda u: torch.exp(1j * u).real + torch.exp(1j * u).imag,
    "two axes": lambda u: torch.fft.ifft2(torch.fft.fft2(u.reshape(2, 4)) * Z.reshape(2, 4)).real.reshape(N),
    "two axes of real ones": lambda u: torch.fft.irfft2(torch.fft.rfft2(u.reshape(2, 4)) * (2 + 1j), s=(2, 4)).reshape(N),
    "where": lambda u: torch.fft.irfft(torch.where(KR < 3, torch.fft.rfft(u), torch.zeros((), dtype=torch.complex128)), n=N),
    "mask": lambda u: torch.fft.irfft(torch.fft.rfft(u) * (KR < 3), n=N),
    "in place": without_high_ones,
    "shift": lambda u: torch.fft.fftshift(torch.fft.fft(u)).imag,
    "hermitian": lambda u: torch.fft.hfft(torch.fft.ihfft(u), n=N),
    "sum and mean": lambda u: torch.fft.fft(u).sum().real + torch.fft.fft(u).mean().imag + u,
    "view": lambda u: torch.view_as_real(torch.view_as_complex(u.reshape(4, 2)) * (1 - 2j)).reshape(N),
    "square": lambda u: (torch.complex(u[:4], u[4:]) ** 2).real.repeat(2),
    "cube": lambda u: (torch.complex(u, u + 1) ** 3).imag,
    "root": lambda u: torch.sqrt(torch.complex(u, u + 1)).real,
    "product": lambda u: (torch.outer(Z, Z) @ torch.complex(u, u * u)).real,
    "reciprocal": lambda u: (1 / torch.complex(u, u + 1)).imag,
    "polar": lambda u: torch.polar(u * u, u).real,
    "index": lambda u: torch.fft.fft(u)[torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])].real + torch.fft.fft(u)[::2].imag.repeat(2),
    "stack": lambda u: torch.stack([torch.fft.fft(u)[i].real for i in range(N)]),
    "einsum": lambda u: torch.einsum("i,i->i", torch.fft.fft(u), Z).real,
    "detach": lambda u: torch.fft.fft(u).detach().real * u,
    "no_grad": lambda u: torch.no_grad()(lambda v: torch.fft.fft(v).real)(u) * u,
    "complex dtype": lambda u: (u.to(torch.complex128) * Z).imag,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_as_torch(name):
    f = MODELS[name]
    x = torch.randn(N, dtype=F64, generator=torch.Generator().manual_seed(0))
    weight = torch.cos(torch.arange(N, dtype=F64))
    model = capture_torch(lambda t, u: f(u), x)
    found = []
    for g in (f, lambda u: model.f(torch.zeros((), dtype=F64), u)):
        u = x.clone().requires_grad_()
        out = g(u)
        found.append((out.detach(), *torch.autograd.grad((weight * out).sum(), u)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_what_is_not_known_is_refused_by_name():
    with pytest.raises(ps.CaptureError, match="linalg|complex"):
        capture_torch(lambda t, u: torch.linalg.eigvals(torch.outer(u, u)).real, torch.ones(3, dtype=F64))
    with pytest.raises(ps.CaptureError, match="5000 points"):
        capture_torch(lambda t, u: torch.fft.irfft(torch.fft.rfft(u)), torch.ones(5000, dtype=F64))


@pytest.mark.slow
@pytest.mark.julia
def test_a_spectral_method(julia_engine):
    """Heat equation: each mode decays by itself, at a rate whose gradient is known too."""
    x = torch.linspace(0, 2 * math.pi, 33, dtype=F64)[:-1]
    k = torch.fft.rfftfreq(32, 1 / 32).to(F64)
    rate = torch.tensor(0.1, dtype=F64, requires_grad=True)
    f = lambda u, p, t: torch.fft.irfft(-p * k**2 * torch.fft.rfft(u), n=32)  # noqa: E731
    sol = ps.solve(
        ps.ODEProblem(f, torch.sin(3 * x), (0.0, 1.0), rate), ps.Rodas5P(), saveat=[1.0], rtol=1e-9, atol=1e-11,
        sensealg=ps.GaussAdjoint(), engine=julia_engine,
    )  # fmt: skip
    exact = torch.sin(3 * x) * math.exp(-0.9)
    torch.testing.assert_close(sol.u[-1].detach(), exact, rtol=0, atol=1e-8)
    (found,) = torch.autograd.grad((sol.u[-1] * torch.sin(3 * x)).sum(), rate)
    assert found.item() == pytest.approx(-9 * math.exp(-0.9) * 16, rel=1e-7)


@pytest.mark.julia
def test_a_complex_state(julia_engine):
    """A state of complex numbers is captured too, and is compiled as any other."""
    y0 = torch.tensor([1 + 1j, 2 - 1j], dtype=torch.complex128)
    w = torch.tensor([2.0, 3.0], dtype=F64)
    u = odeint(lambda t, y: (1j * w - 0.5) * y, y0, torch.tensor([0.0, 1.0], dtype=F64), rtol=1e-9, atol=1e-11)
    exact = y0.numpy() * np.exp(1j * w.numpy() - 0.5)
    np.testing.assert_allclose(u[-1].numpy(), exact, rtol=1e-8)
