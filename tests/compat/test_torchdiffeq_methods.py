"""Methods, options and errors of torchdiffeq's functions."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchdiffeq

import pysciode as ps
from pysciode.compat.torchdiffeq.methods import METHODS, method_of
from pysciode.errors import FallbackWarning

TIMES = torch.tensor([0.0, 0.33, 0.5, 1.01], dtype=torch.float64)
Y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)


def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.sin(y) * t + 0.3


def of(method: object, options: dict | None = None, times: torch.Tensor = TIMES) -> object:
    return method_of(method, options, field, Y0, times, event=False)


def test_every_method_of_torchdiffeqs_has_one_of_scimls() -> None:
    from torchdiffeq._impl.odeint import SOLVERS

    theirs = {name for name in SOLVERS if not name.startswith("pysciode")}
    assert theirs == set(METHODS)
    for name in METHODS:
        assert of(name).algorithm is not None


@pytest.mark.parametrize(("method", "name"), [(None, "Tsit5"), ("Rodas5P", "Rodas5P"), (ps.Rodas5P(), "Rodas5P"), ("ABM54", "ABM54")])
def test_methods_of_scimls(method: object, name: str) -> None:
    found = of(method)
    assert found.algorithm.name == name
    assert found.kind == ("fixed" if name == "ABM54" else "adaptive")


@pytest.mark.parametrize("method", ["dopri", "tsit", 3])
def test_methods_that_there_are_not(method: object) -> None:
    with pytest.raises((ValueError, TypeError), match="method|algorithm"):
        of(method)


def test_options_of_adaptive_methods() -> None:
    keywords = of("dopri5", {"first_step": 0.1, "max_step": torch.tensor(0.2), "min_step": 0, "max_num_steps": 7}).keywords
    assert keywords == {"dt": 0.1, "dtmax": pytest.approx(0.2), "maxiters": 21}
    backwards = of("dopri5", {"step_t": torch.tensor([0.1, 0.7, 2.0]), "jump_t": torch.tensor([0.4, 0.2])}, TIMES.flip(0))
    assert backwards.keywords["tstops"] == pytest.approx([0.7, 0.1])
    assert backwards.jumps == pytest.approx([0.4, 0.2])
    with pytest.raises(ValueError, match="repeated"):
        of("dopri5", {"step_t": torch.tensor([0.5]), "jump_t": torch.tensor([0.5])})


def test_grids() -> None:
    assert of("euler").steps.tolist() == TIMES.tolist()
    assert of("euler", {"step_size": 0.25}).steps.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.01]
    assert "tstops" not in of("euler", None, torch.linspace(0, 1, 11)).keywords
    with pytest.raises(ValueError, match="mutually exclusive"):
        of("euler", {"step_size": 0.1, "grid_constructor": lambda f, y, t: t})
    with pytest.raises(ValueError, match="interpolation"):
        of("euler", {"interp": "quintic"})
    for bad in (TIMES[1:], TIMES.flip(0), torch.tensor([0.0, 0.8, 0.5, 1.01])):
        with pytest.raises(ValueError, match="grid"):
            of("euler", {"grid_constructor": lambda f, y, t, grid=bad: grid})


def test_options_that_are_not_known_or_have_no_effect() -> None:
    with pytest.warns(UserWarning, match="Unexpected arguments.*'step'"):
        of("dopri5", {"step": 3})
    with pytest.warns(FallbackWarning, match="safety"):
        of("dopri5", {"safety": 0.8})


@pytest.mark.usefixtures("on_julia")
class TestSolves:
    @pytest.mark.parametrize("options", [None, {"step_size": 0.05}, {"step_size": 0.05, "interp": "cubic"}])
    def test_eulers_method_is_the_very_same(self, options: dict | None) -> None:
        y0 = Y0.clone().requires_grad_()
        found, expected = (x.odeint(field, y0, TIMES, method="euler", options=options) for x in (ps, torchdiffeq))
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
        grads = [torch.autograd.grad(y.square().sum(), y0)[0] for y in (found, expected)]
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)

    @pytest.mark.slow
    @pytest.mark.parametrize("adjoint", [False, True])
    def test_a_grid_of_ones_own(self, adjoint: bool) -> None:
        grid = torch.tensor([0.0, 0.1, 0.4, 0.5, 0.8, 1.0], dtype=torch.float64)
        y0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        keywords = {"method": "euler", "options": {"grid_constructor": lambda f, y, t: grid}}
        solver = ps.odeint_adjoint if adjoint else ps.odeint
        y = solver(lambda t, y: y, y0, grid[[0, -1]], **keywords, **({"adjoint_params": ()} if adjoint else {}))
        torch.testing.assert_close(y[-1], torch.prod(1 + grid.diff()), rtol=1e-12, atol=0.0)
        y[-1].backward()
        if not adjoint:
            torch.testing.assert_close(y0.grad, torch.prod(1 + grid.diff()), rtol=1e-12, atol=0.0)

    def test_stiff_problems_by_scimls_methods(self) -> None:
        rates = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64, requires_grad=True)

        def robertson(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            a, b, c = y[0], y[1], y[2]
            slow, fast, back = rates[0] * a, rates[1] * b * b, rates[2] * b * c
            return torch.stack([back - slow, slow - back - fast, fast])

        y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        times = torch.tensor([0.0, 40.0], dtype=torch.float64)
        y = ps.odeint(robertson, y0, times, method="Rodas5P", rtol=1e-8, atol=1e-12)
        # Hairer and Wanner, Solving Ordinary Differential Equations II, and later tables
        expected = torch.tensor([0.7158270688, 9.185534765e-6, 0.2841637457], dtype=torch.float64)
        torch.testing.assert_close(y[-1], expected, rtol=1e-6, atol=0.0)
        assert torch.isfinite(torch.autograd.grad(y[-1].sum(), rates)[0]).all()

    def test_a_jump_is_solved_on_both_sides(self) -> None:
        def jump(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.where(t < 0.5, -0.5 * y, y**2)

        y0 = Y0.clone().requires_grad_()
        exact = 1 / (torch.exp(torch.tensor(0.25, dtype=torch.float64)) / y0 - 0.3)
        times = torch.tensor([0.0, 0.2, 0.5, 0.8], dtype=torch.float64)
        y = ps.odeint(jump, y0, times, rtol=1e-9, atol=1e-9, options={"jump_t": torch.tensor([0.5])})
        torch.testing.assert_close(y[-1], exact, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(y[2], y0 * torch.exp(torch.tensor(-0.25)), rtol=1e-7, atol=1e-7)
        grads = [torch.autograd.grad(x.sum(), y0)[0] for x in (y[-1], exact)]
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)
        back = ps.odeint(jump, y[-1].detach(), times.flip(0), rtol=1e-9, atol=1e-9, options={"jump_t": torch.tensor([0.5])})
        torch.testing.assert_close(back[-1], Y0, rtol=1e-7, atol=1e-7)

    def test_steps_below_the_smallest_are_taken_whatever_their_error(self) -> None:
        counter = Counting()
        ps.odeint(counter, Y0, TIMES * 8, options={"min_step": 2.0})
        assert 0 < counter.nfe < 60

    def test_a_norm_of_ones_own(self) -> None:
        seen = []

        def norm(error: tuple[torch.Tensor, ...]) -> torch.Tensor:
            seen.append(tuple(x.shape for x in error))
            return max(x.abs().max() for x in error)

        y0 = (torch.tensor(1.0), torch.ones(2, 2))
        y = ps.odeint(lambda t, y: (-y[0], -y[1]), y0, torch.tensor([0.0, 1.0]), rtol=1e-5, options={"norm": norm})
        assert set(seen) == {((), (2, 2))}
        torch.testing.assert_close(y[0][-1], torch.exp(torch.tensor(-1.0)), rtol=1e-4, atol=1e-5)

    def test_solves_that_give_up(self) -> None:
        with pytest.raises(ps.SolveFailed) as caught:
            ps.odeint(lambda t, y: y**2, torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64))
        assert isinstance(caught.value, AssertionError)  # as torchdiffeq's "underflow in dt"
        assert 0.9 < caught.value.t < 1.1
        assert "stiff" in str(caught.value) and "throw" not in str(caught.value)  # which is an option of solve
        with pytest.raises(AssertionError, match="MaxIters"):
            ps.odeint(field, Y0, TIMES, options={"max_num_steps": 1, "max_step": 0.01})


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nfe = 0

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        return torch.sin(y * t)


@pytest.mark.usefixtures("on_julia")
class TestErrors:
    @pytest.mark.parametrize(
        ("times", "kind"),
        [
            ([0.0, 1.0], AssertionError),
            (torch.tensor([0, 1]), TypeError),
            (torch.tensor([[0.0, 1.0]]), AssertionError),
            (torch.tensor([0.0, 1.0, 0.5]), AssertionError),
            (torch.tensor([0.0, 1.0, 1.0]), AssertionError),
            (torch.tensor([0.0, float("nan")]), AssertionError),
        ],
    )
    def test_times(self, times: object, kind: type[Exception]) -> None:
        for library in (ps, torchdiffeq):
            with pytest.raises(kind):
                library.odeint(field, Y0, times)
        if kind is AssertionError:
            with pytest.raises(ValueError, match="t must be"):
                ps.odeint(field, Y0, times)

    @pytest.mark.parametrize("y0", [[Y0], 1.0, None])
    def test_states(self, y0: object) -> None:
        for library in (ps, torchdiffeq):
            with pytest.raises(AssertionError):
                library.odeint(field, y0, TIMES)

    def test_tolerances(self) -> None:
        with pytest.raises(AssertionError, match="rtol"):
            ps.odeint(field, Y0, TIMES, rtol=torch.tensor([1e-6, 1e-6], requires_grad=True))
        with pytest.raises(ValueError, match="atol has 1 entries"):
            ps.odeint(lambda t, y: y, (Y0, Y0), TIMES, atol=(1e-6,))
        with pytest.raises(ValueError, match="atol has shape"):
            ps.odeint(field, Y0, TIMES, atol=torch.ones(3))

    def test_the_adjoints_arguments(self) -> None:
        with pytest.raises(ValueError, match="adjoint_params"):
            ps.odeint_adjoint(field, Y0, TIMES)
        with pytest.raises(ValueError, match="adjoint_options"):
            ps.odeint_adjoint(field, Y0, TIMES, adjoint_params=(), method="euler", options={}, adjoint_method="rk4")

    def test_what_the_function_raises_is_not_hidden(self) -> None:
        def broken(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            raise KeyError("mine")

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(KeyError, match="mine"):
                ps.odeint(broken, Y0, TIMES)
            with pytest.raises(ValueError, match=r"shape \(3,\)"):
                ps.odeint(lambda t, y: torch.ones(3, dtype=torch.float64), Y0, TIMES)
            with pytest.raises(TypeError, match="tuple of 2"):
                ps.odeint(lambda t, y: y[0], (Y0, Y0), TIMES)


@pytest.mark.slow
@pytest.mark.julia
def test_newer_names_have_their_order(julia_engine):
    """Of torchdiffeq's development version, on grids of two sizes, against the analytic solution."""
    import math

    orders = {
        "implicit_euler": 1, "implicit_midpoint": 2, "trapezoid": 2, "trbdf2": 2, "sdirk2": 2, "radauIIA3": 3, "gl2": 2,
    }  # fmt: skip
    exact = math.exp(-math.sin(3.0) / 3)

    def error(method, count):
        t = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
        return abs(
            ps.odeint(lambda t, y: -y * torch.cos(3 * t), torch.ones(1, dtype=torch.float64), t, method=method)[-1, 0].item() - exact
        )

    for method, order in orders.items():
        assert math.log2(error(method, 33) / error(method, 65)) == pytest.approx(order, abs=0.2), method
    for method in ("tsit5", "radauIIA5", "gl4", "gl6"):
        assert error(method, 33) < 1e-7, method
