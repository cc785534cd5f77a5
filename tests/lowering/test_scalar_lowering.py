"""Generated Julia: that it runs, agrees with NumPy in both precisions, and allocates nothing."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from ode_models import LARGE, MODELS, Model

from pysciode.capture.scalar_trace import trace_function
from pysciode.errors import CaptureError
from pysciode.graphs.captured_model import JuliaModel
from pysciode.graphs.scalar_derivatives import jacobian
from pysciode.lowering import LoweredModel, lower
from pysciode.lowering.scalars import scalar_functions as scalar
from pysciode.lowering.scalars.python_function import evaluate, python_function
from pysciode.lowering.scalars.scalar_functions import FUNCTIONS, lower_scalar
from pysciode.lowering.scalars.straight_line import julia_literal, strip_parentheses

JULIA = shutil.which("julia")
needs_julia = pytest.mark.skipif(JULIA is None, reason="needs a Julia executable")

# Enough of what generated code refers to, so that this needs no Julia package.
PRELUDE = """
module NaNMath
for f in (:log, :log2, :log10, :log1p, :sqrt, :sin, :cos, :tan, :asin, :acos, :acosh, :atanh)
    @eval $f(x::Real) = try Base.$f(x) catch e; e isa DomainError ? oftype(float(x), NaN) : rethrow() end
end
pow(x, y) = try x^y catch e; e isa DomainError ? oftype(float(x), NaN) : rethrow() end
end
module Kernels
fast_tanh(x) = tanh(x)
sigmoid(x) = 1 / (1 + exp(-x))
using ..NaNMath
power(x, y) = NaNMath.pow(x, y)
angle(y, x) = atan(y, x)
magnitude(x) = abs(x)
larger(x, y) = max(x, y)
smaller(x, y) = min(x, y)
modulo(x, y) = mod(x, y)
remainder(x, y) = rem(x, y)
for (name, op) in ((:lt, :<), (:le, :<=), (:gt, :>), (:ge, :>=), (:eq, :(==)), (:ne, :(!=))); @eval $name(x, y) = $op(x, y); end
isnan(x) = Base.isnan(x)
isinf(x) = Base.isinf(x)
sign(x) = Base.sign(x)
half_power(x, ::Val{k}) where {k} = NaNMath.pow(x, oftype(x, k + 0.5))
end
# A number that carries a derivative: is the generated code generic in its element type?
struct Dual{T} <: Real; v::T; d::T; end
Dual{T}(x::Real) where {T} = Dual{T}(T(x), zero(T))
Base.convert(::Type{Dual{T}}, x::Dual{T}) where {T} = x
Base.convert(::Type{Dual{T}}, x::Real) where {T} = Dual{T}(x)
Base.promote_rule(::Type{Dual{T}}, ::Type{<:Real}) where {T} = Dual{T}
Base.:+(a::Dual{T}, b::Dual{T}) where {T} = Dual{T}(a.v + b.v, a.d + b.d)
Base.:-(a::Dual{T}, b::Dual{T}) where {T} = Dual{T}(a.v - b.v, a.d - b.d)
Base.:-(a::Dual{T}) where {T} = Dual{T}(-a.v, -a.d)
Base.:*(a::Dual{T}, b::Dual{T}) where {T} = Dual{T}(a.v * b.v, a.d * b.v + a.v * b.d)
Base.:/(a::Dual{T}, b::Dual{T}) where {T} = Dual{T}(a.v / b.v, (a.d - a.v / b.v * b.d) / b.v)
Base.:<(a::Dual, b::Dual) = a.v < b.v
Base.:(==)(a::Dual, b::Dual) = a.v == b.v
repeat_call(f::F, k, args::Vararg{Any,N}) where {F,N} = (for _ in 1:k; f(args...); end; nothing)
# the difference of many calls and one: what is allocated around the calls cancels
allocated(f::F, args::Vararg{Any,N}) where {F,N} =
    (repeat_call(f, 2, args...); (@allocated repeat_call(f, 101, args...)) - (@allocated repeat_call(f, 1, args...)))
vector(x) = "[" * join(x, ",") * "]"
report(name, x) = println("{\\"name\\":\\"", name, "\\",\\"x\\":", replace(vector(x), "NaN" => "null"), "}")
"""


def run_julia(*scripts: str) -> dict[str, np.ndarray]:
    """What the scripts ``report``, by name."""
    process = subprocess.run([JULIA, "--startup-file=no", "-O1", "-"], input="\n".join([PRELUDE, *scripts]), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    rows = map(json.loads, process.stdout.splitlines())
    return {row["name"]: np.array([np.nan if x is None else x for x in row["x"]], float) for row in rows}


def literal(x: np.ndarray, dtype: type) -> str:
    return f"{'Float32' if dtype is np.float32 else 'Float64'}[{', '.join(map(repr, map(float, x)))}]"


def script(name: str, source: str, point: Model, dtype: type, sizes: dict[str, int]) -> str:
    """Julia code that calls each function of a model at a point, and reports its results and allocations."""
    n, n_params = point.u.size, point.p.size
    weights = np.linspace(-1, 1, n)
    calls = {
        "f!": (("du", n),), "vjp!": (("dlam", n), "lam"), "vjp_p!": (("dp", n_params), "lam"),
        "vjp_both!": (("dlam", n), ("dp", n_params), "lam"), "jvp!": (("dv", n), "lam"), "tgrad!": (("dT", n),),
        "jac!": (("J", n * n),), "paramjac!": (("pJ", n * n_params),), "jac_sparse!": (("nz", sizes["nnz"]),),
    }  # fmt: skip
    lines = [
        f"module M{name}",
        "using ..NaNMath, ..Kernels",
        source,
        "end",
        f"let u = {literal(point.u.ravel(), dtype)}, p = {literal(point.p, dtype)}, lam = {literal(weights, dtype)}, "
        f"t = eltype(u)({point.t}), T = eltype(u)",
    ]
    for function, arguments in calls.items():
        outputs = [a for a in arguments if isinstance(a, tuple)]
        names = ", ".join(a[0] if isinstance(a, tuple) else a for a in arguments)
        lines += [f"{a} = fill(T(NaN), {size})" for a, size in outputs]  # whatever isn't written shows
        lines.append(f"@assert M{name}.{function}({names}, u, p, t, nothing) === nothing")
        lines += [f'report("{name}.{function}.{a}", {a})' for a, _ in outputs]
        lines.append(f'report("{name}.{function}.bytes", [allocated(M{name}.{function}, {names}, u, p, t, nothing)])')
    lines.append(f"du = M{name}.f_oop(u, p, t); @assert eltype(du) == T")
    lines.append(f'report("{name}.f_oop", du)')
    return "\n".join([*lines, "end"])


# Model -> point, and whether it is written as loops.
CASES = {name: (point, False) for name, point in MODELS.items()}
CASES |= {f"{name}_loops": (point, True) for name, point in LARGE.items()}


def lowered_as(point: Model, dtype: type, loops: bool) -> LoweredModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scalar, "_LONG", 30 if loops else 10**9)
        return lower_scalar(trace_function(point.f, point.u.shape, point.p.size), dtype)


@pytest.fixture(scope="module")
def julia_results():
    """All models in both precisions, in one process."""
    if JULIA is None:
        pytest.skip("needs a Julia executable")
    scripts = []
    for name, (point, loops) in CASES.items():
        for dtype in (np.float64, np.float32):
            lowered = lowered_as(point, dtype, loops)
            label = f"{name}_{np.dtype(dtype).name}"
            tables = "".join(
                f"const {table} = {'Int' if values.dtype.kind == 'i' else dtype.__name__.title()}{values.tolist()}\n"
                for table, values in lowered.constants.items()
            )
            sizes = {"nnz": len(lowered.sparsity[1])}
            scripts.append(script(label, tables + lowered.source, point, dtype, sizes))
    return run_julia(*scripts)


@pytest.mark.parametrize("name", LARGE)
def test_repeated_formulas_become_loops(name):
    """Kuramoto's adjoint has a sum for each oscillator; otherwise the code does not grow with the model."""
    point = LARGE[name]
    source = lowered_as(point, np.float64, loops=True).source
    for function in ("f!", "vjp!", "vjp_p!", "vjp_both!", "jac!", "jac_sparse!"):
        body = source[source.index(f"function {function}") :].split("\nend\n")[0]
        assert "for k in 1:" in body, function
        assert body.count("\n") < (900 if name == "kuramoto" else 200), function


def test_a_model_that_neither_repeats_nor_ends(monkeypatch):
    monkeypatch.setattr(scalar, "_HOPELESS", 2000)
    monkeypatch.setattr(scalar, "_CHUNK", 100)
    point = MODELS["pollu"]
    monkeypatch.setattr(scalar, "_LONG", 10**9)
    model = trace_function(point.f, point.u.shape, point.p.size)
    assert "f_part2!" in lower_scalar(model, want={"f!"}).source
    monkeypatch.setattr(scalar, "_HOPELESS", 150)
    with pytest.raises(CaptureError, match="torch"):
        lower_scalar(model, want={"f!"})


@pytest.mark.slow
@needs_julia
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", CASES)
def test_julia_agrees_with_numpy(julia_results, name, dtype):
    point, loops = CASES[name]
    model = trace_function(point.f, point.u.shape, point.p.size)
    lowered = lowered_as(point, dtype, loops)
    label = f"{name}_{np.dtype(dtype).name}"
    n, n_params = point.u.size, point.p.size
    weights = np.linspace(-1, 1, n)

    def found(function: str) -> np.ndarray:
        return julia_results[f"{label}.{function}"]

    f = evaluate(model, point.u, point.p, point.t)
    ju, jp = np.zeros((n, n)), np.zeros((n, n_params))
    for matrix, inputs in ((ju, model.u), (jp, model.p)):
        entries = jacobian(model.graph, model.rhs, inputs)
        if entries:
            values = python_function(model, outputs=list(entries.values()))(point.u.ravel(), point.p, point.t)
            matrix[tuple(zip(*entries, strict=True))] = values
    colptr, rowval = lowered.sparsity
    sparse = np.zeros((n, n))
    for j in range(n):
        for k in range(colptr[j] - 1, colptr[j + 1] - 1):
            sparse[rowval[k] - 1, j] = found("jac_sparse!.nz")[k]
    expected = {
        "f!.du": f, "f_oop": f, "vjp!.dlam": weights @ ju, "vjp_p!.dp": weights @ jp, "vjp_both!.dlam": weights @ ju,
        "vjp_both!.dp": weights @ jp, "jvp!.dv": ju @ weights, "jac!.J": ju.ravel("F"), "paramjac!.pJ": jp.ravel("F"),
        "tgrad!.dT": found("tgrad!.dT"),
    }  # fmt: skip
    rtol = 1e-11 if dtype == np.float64 else 2e-3
    scale = max(1.0, np.abs(ju).max(), np.abs(f).max()) * (1e-13 if dtype == np.float64 else 1e-5)
    for function, values in expected.items():
        atol = scale * max(1.0, np.abs(values).max(initial=0.0) if "dp" in function or "pJ" in function else 1.0)
        np.testing.assert_allclose(found(function), values, rtol=rtol, atol=atol, err_msg=function)
    np.testing.assert_allclose(sparse, ju, rtol=rtol, atol=scale)
    for function in FUNCTIONS:
        if function != "f_oop":
            assert found(f"{function}.bytes") == [0], f"{function} allocates"


def random_expression(rng: np.random.Generator, leaves: list, depth: int):
    """A NumPy expression of `leaves`, finite for all values."""
    if depth == 0 or rng.random() < 0.1:
        return leaves[rng.integers(len(leaves))] if rng.random() < 0.8 else float(np.round(rng.normal(), 2))

    def inner():
        return random_expression(rng, leaves, depth - 1)

    match rng.integers(14):
        case 0:
            return inner() + inner()
        case 1:
            return inner() - inner()
        case 2:
            return inner() * inner()
        case 3:
            return inner() / (2 + np.sin(inner()))
        case 4:
            return -inner()
        case 5:
            return np.where(inner() < inner(), inner(), inner())
        case 6:
            return np.maximum(inner(), inner()) - np.minimum(inner(), 0.5)
        case 7:
            return np.tanh(inner()) ** int(rng.integers(2, 5))
        case 8:
            return (1 + inner() ** 2) ** float(rng.choice([0.5, 1.5, -0.5, -2.5, 0.3]))
        case 9:
            return np.exp(-(np.sin(inner()) ** 2))
        case 10:
            return np.log(1.5 + np.cos(inner())) + np.arctan2(inner(), 2.0)
        case 11:
            return np.clip(inner(), -1.0, 1.0) + np.abs(inner())
        case 12:
            return np.sign(inner()) * np.mod(inner(), 1.25) + np.floor(np.sin(inner()))
        case _:
            return np.hypot(inner(), 1.0) + ((inner() > 0.2) & (inner() <= 1.0))


@pytest.mark.slow
@needs_julia
def test_random_models():
    """Values and vector-Jacobian products of random expressions, printed and run, are those of torch."""
    torch = pytest.importorskip("torch")
    cases, scripts = {}, []
    for k in range(25):
        rng = np.random.default_rng(k)
        seed = int(rng.integers(2**31))

        def f(u, p, t, seed=seed):
            inner = np.random.default_rng(seed)
            return [random_expression(inner, [u[0], u[1], u[2], p[0], p[1], t], 5) for _ in range(3)]

        point = Model(f, rng.normal(size=3), rng.normal(size=2), 0.4)
        model = trace_function(f, (3,), 2)
        lowered = lower_scalar(model, want=set(FUNCTIONS))
        scripts.append(script(f"r{k}", lowered.source, point, np.float64, {"nnz": len(lowered.sparsity[1])}))
        cases[f"r{k}"] = (point, model)
    found = run_julia(*scripts)
    compared = 0
    for name, (point, model) in cases.items():
        with np.errstate(all="ignore"):
            expected = np.array(point.f(point.u, point.p, point.t), float)
        np.testing.assert_allclose(found[f"{name}.f!.du"], expected, rtol=1e-10, atol=1e-12)
        leaves = [torch.tensor(x, requires_grad=True) for x in (point.u, point.p)]
        out = python_function(model, "torch")(*leaves, point.t)
        lam = torch.linspace(-1, 1, 3, dtype=torch.float64)
        if not out.requires_grad:
            continue
        du, dp = (
            np.zeros(x.numel()) if g is None else g.numpy()
            for x, g in zip(leaves, torch.autograd.grad(out @ lam, leaves, allow_unused=True), strict=True)
        )
        if not (np.isfinite(du).all() and np.isfinite(dp).all()):
            continue
        compared += 1
        for function in ("vjp_both!.dlam", "vjp!.dlam"):
            np.testing.assert_allclose(found[f"{name}.{function}"], du, rtol=1e-8, atol=1e-9, err_msg=name)
        for function in ("vjp_both!.dp", "vjp_p!.dp"):
            np.testing.assert_allclose(found[f"{name}.{function}"], dp, rtol=1e-8, atol=1e-9, err_msg=name)
        jacobian = found[f"{name}.jac!.J"].reshape(3, 3).T
        np.testing.assert_allclose(lam.numpy() @ jacobian, du, rtol=1e-8, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found[f"{name}.jvp!.dv"], jacobian @ lam.numpy(), rtol=1e-8, atol=1e-9, err_msg=name)
    assert compared > 15


@needs_julia
def test_generated_code_takes_dual_numbers():
    """Values and derivatives in each precision; every intermediate is a dual, also where a literal is chosen."""

    def f(u, p, t):
        x, y = u
        one = 1.0
        for k in range(6):
            one = one * np.where(x > k + 5, x * y, 1.0)
        return [np.where(x > 1, 0.5 * x * y / p[0], 2.0) * one, np.where(y > 0, y**3, 0.0) + np.maximum(x, 0.25)]

    model = trace_function(f, (2,), 1)
    scripts = []
    for dtype in (np.float64, np.float32):
        name = f"D{np.dtype(dtype).name}"
        kind = "Float32" if dtype is np.float32 else "Float64"
        scripts.append(f"""
            module {name}
            using ..NaNMath, ..Kernels
            {lower_scalar(model, dtype).source}
            end
            let D = Dual{{{kind}}}, u = [D(1.5, 1.0), D(0.5, 0.0)], p = [D(2.0, 0.0)], t = {kind}(0), du = fill(D(0, 0), 2)
                {name}.f!(du, u, p, t, nothing)
                report("{name}.value", [x.v for x in du])
                report("{name}.derivative", [x.d for x in du])
                report("{name}.bytes", [allocated({name}.f!, du, u, p, t, nothing)])
                @assert {name}.f_oop(u, p, t) isa Vector{{D}}
                types = only(code_typed({name}.f!, typeof.((du, u, p, t, nothing)))).first.ssavaluetypes
                @assert !any(x -> x isa Union, types) "no single type"
            end""")
    found = run_julia(*scripts)
    for name in ("Dfloat64", "Dfloat32"):
        assert found[f"{name}.value"] == pytest.approx([0.1875, 1.625])
        assert found[f"{name}.derivative"] == pytest.approx([0.125, 1.0])
        assert found[f"{name}.bytes"] == [0]


@needs_julia
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_julia_reads_each_literal_back(dtype):
    values = [0.1, -2.5, 1e-5, 1e30, 3.0, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, np.inf, -np.inf, 123456789.0]
    kind = "Float32" if dtype == np.float32 else "Float64"
    lines = [f"@assert all(x -> x isa {kind}, [{', '.join(julia_literal(x, np.dtype(dtype)) for x in values)}])"]
    with np.errstate(over="ignore"):
        exact = [f"{float(np.dtype(dtype).type(x))!r}".replace("inf", "Inf") for x in values]
    lines += [f"@assert {julia_literal(x, np.dtype(dtype))} === {kind}({y})" for x, y in zip(values, exact, strict=True)]
    run_julia(*lines, f"@assert isnan({julia_literal(float('nan'), np.dtype(dtype))})")


@needs_julia
@pytest.mark.parametrize(
    "source",
    [
        "function f!(du, u, p, t)\n    du[1] = -p[1] * u[1]\n    du[2] = sin(t) + u[2]\nend",
        "f(u, p, t) = [-p[1] * u[1], sin(t) + u[2]]",
        "(u, p, t) -> (-p[1] * u[1], sin(t) + u[2])",
        'using Base.Math: sin\nrate = 1 # $x "quoted"\n(du, u, p, t) -> begin\n du[1] = -rate * p[1] * u[1]; du[2] = sin(t) + u[2]\nend',
    ],
)
def test_julia_source(source):
    lowered = lower(JuliaModel(source), np.float64, n=2, n_params=1, want={"f!"})
    assert lowered.form == "julia"
    found = run_julia(
        f"module M\n{lowered.source}\nend",
        'du = zeros(2); M.f!(du, [1.0, 2.0], [3.0], 0.5, M.workspace(Float64)); report("du", du)',
    )
    assert found["du"] == pytest.approx([-3.0, np.sin(0.5) + 2.0])


@needs_julia
def test_julia_source_with_its_own_derivatives():
    source = """
    f!(du, u, p, t) = (du .= p[1] .* u; nothing)
    jac!(J, u, p, t) = (J[1, 2] = 5.0; J[2, 1] = 7.0; nothing)
    vjp!(dlam, lam, u, p, t) = (dlam .= p[1] .* lam; nothing)
    vjp_p!(dp, lam, u, p, t) = (dp[1] = sum(lam .* u); nothing)
    """
    lowered = lower(JuliaModel(source), np.float64, n=2, n_params=1, want={"f!"})
    assert lowered.functions == {"f!", "jac!", "vjp!", "vjp_p!", "vjp_both!"}
    found = run_julia(
        f"module M\n{lowered.source}\nend",
        'J = zeros(4); M.jac!(J, zeros(2), [3.0], 0.0, nothing); report("J", J)',
        "dlam = zeros(2); dp = zeros(1); M.vjp_both!(dlam, dp, [1.0, 2.0], [4.0, 5.0], [3.0], 0.0, nothing)",
        'report("dlam", dlam); report("dp", dp)',
    )
    assert list(found["J"]) == [0, 7, 5, 0]  # column-major
    assert list(found["dlam"]) == [3, 6]
    assert list(found["dp"]) == [14]


def test_only_what_is_wanted_is_generated():
    model = trace_function(lambda u, p, t: [-u[0]], (1,), 0)
    lowered = lower(model, np.float64, n=1, n_params=0, want={"f!", "jac!"})
    assert lowered.functions == {"f!", "jac!"}
    assert "vjp" not in lowered.source
    assert lowered.sparsity is None
    with pytest.raises(ValueError, match="unknown functions"):
        lower_scalar(model, np.float64, {"f!", "hessian!"})
    with pytest.raises(ValueError, match="1 states and 0 parameters"):
        lower(model, np.float64, n=2, n_params=0, want={"f!"})


def test_all_is_read_before_anything_is_written():
    model = trace_function(lambda u, p, t: [u[1], u[0]], (2,), 0)
    lines = lower_scalar(model, want={"f!"}).source.splitlines()
    first_store = next(k for k, line in enumerate(lines) if line.strip().startswith("du["))
    assert all("u[" not in line.replace("du[", "") for line in lines[first_store:])


def test_float32_has_no_double_literals():
    model = trace_function(lambda u, p, t: [0.1 * u[0] + 1e-9], (1,), 0)
    source = lower_scalar(model, np.float32, {"f!"}).source
    assert "0.1f0" in source and "1f-09" in source


@pytest.mark.parametrize(("text", "bare"), [("(a + b)", "a + b"), ("(a) + (b)", "(a) + (b)"), ("f(x)", "f(x)"), ("a", "a")])
def test_strip_parentheses(text, bare):
    assert strip_parentheses(text) == bare
