"""Ctrl-C and other signals while Julia solves, differentiates or compiles: the exception comes soon, and the session goes on."""

from __future__ import annotations

import signal
import sys

import pytest
from processes import MODELS, check_script, run_script

pytestmark = [pytest.mark.slow, pytest.mark.julia, pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")]

PRESS = (
    MODELS
    + '''
def press(after=0.5, number=signal.SIGINT):
    timer = threading.Timer(after, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def check(name, endless, expected=KeyboardInterrupt, after=0.5):
    """`endless` ends with the exception, soon (a loaded machine may need many seconds), and numbers are right afterwards."""
    press(after)
    began = time.monotonic()
    try:
        endless()
    except expected:
        assert time.monotonic() - began < 60, name
    else:
        raise AssertionError(f"{name} came to an end")
    check_numbers()


def nothing(t):
    pass


check_numbers()
'''
)


def test_ctrl_c_in_forward_solves():
    check_script(
        PRESS
        + """
for algorithm in (ps.Tsit5(), ps.Rodas5P(), ps.FBDF(), None):
    ps.solve(ps.remake(swinging, tspan=(0.0, 1.0)), algorithm, engine="julia")  # so that Ctrl-C comes in the solve
    check(f"scalar {algorithm}", lambda: ps.solve(swinging, algorithm, **ENDLESS))
check("a function that is told the time", lambda: ps.solve(swinging, ps.Tsit5(), progress=nothing, **ENDLESS))
check("a bar", lambda: ps.solve(swinging, ps.Tsit5(), progress=True, **ENDLESS))
turn = torch.zeros(20, 20, dtype=F64)
turn[0, 1], turn[1, 0] = 1.0, -1.0
arrays = ps.ODEProblem(lambda u, p, t: torch.tanh(u @ turn), torch.ones(20, dtype=F64), (0.0, 1e9))
check("arrays", lambda: ps.solve(arrays, ps.Tsit5(), **ENDLESS))
# Ctrl-C comes in Julia or in Python, by chance.
for k in range(8):
    check("in Python", lambda: ps.solve(swinging_in_python, ps.Tsit5(), **ENDLESS), after=0.3 + 0.013 * k)
inside = ps.ODEProblem(lambda u, p, t: (time.sleep(0.01), -u)[1], np.ones(2), (0.0, 1e9), capture="callback")
check("in a model that waits", lambda: ps.solve(inside, ps.Tsit5(), **ENDLESS))
"""
    )


def test_ctrl_c_in_backward_solves():
    check_script(
        PRESS
        + """
# At rest, so that the way there is a few steps; the adjoint decays at a rate of 1e7, which would take hours.
def array(u, p, t):
    return -p[0] * u

for f, n, capture in ((decay, 1, "auto"), (array, 3, "auto"), (array, 3, "callback")):
    for sensealg in (ps.GaussAdjoint(), ps.BacksolveAdjoint(), ps.QuadratureAdjoint(), ps.InterpolatingAdjoint(checkpointing=True)):
        p = torch.tensor([1e7], dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(f, torch.zeros(n, dtype=F64), (0.0, 1e3), p, capture=capture)
        solution = ps.solve(problem, ps.Tsit5(), saveat=[1e3], maxiters=10**12, sensealg=sensealg, engine="julia")
        check(f"{capture} {sensealg}", lambda: solution.u.sum().backward())
        assert p.grad is None

def forward_mode():
    u0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    ps.solve(ps.ODEProblem(swing, u0, (0.0, 1e9)), ps.Tsit5(), sensealg=ps.ForwardDiffSensitivity(), **ENDLESS)

check("forward mode", forward_mode)
"""
    )


def test_what_handlers_do_is_done():
    """What a handler raises comes out, one that returns lets the solve go on, and nothing is printed."""
    out = run_script(
        PRESS
        + """
class TimeIsUp(Exception):
    pass

def stop(number, frame):
    raise TimeIsUp(number)

signal.signal(signal.SIGALRM, stop)
for name, problem in (("scalar", swinging), ("in Python", swinging_in_python)):
    for progress in (False, nothing):
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            ps.solve(problem, ps.Tsit5(), progress=progress, **ENDLESS)
        except TimeIsUp as error:
            assert error.args == (signal.SIGALRM,)
        else:
            raise AssertionError("came to an end")
        check_numbers()

called = []
signal.signal(signal.SIGINT, lambda number, frame: called.append(number))
press(0.3)
signal.setitimer(signal.ITIMER_REAL, 1.0)
try:
    ps.solve(swinging, ps.Tsit5(), **ENDLESS)
except TimeIsUp:
    print("called", called == [signal.SIGINT])
check_numbers()

def tell(t):
    raise ZeroDivisionError("told")

try:
    ps.solve(swinging, ps.Tsit5(), progress=tell, **ENDLESS)
except ZeroDivisionError as error:
    print(error)
# Also where the solve comes to its end before anybody asks.
try:
    ps.solve(ps.ODEProblem(lambda u, p, t: (time.sleep(0.02), -u)[1], np.ones(1), (0.0, 1.0), capture="callback"), ps.Tsit5(), dt=0.1,
             adaptive=False, saveat=[1.0], progress=tell, engine="julia")
except ZeroDivisionError as error:
    print(error)
check_numbers()
"""
    )
    assert out.splitlines() == ["called True", "told", "told"]


def test_ctrl_c_while_a_model_is_captured_and_compiled():
    """At any moment: the next try gives right numbers."""
    check_script(
        PRESS
        + """
def interrupted(signal_number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupted)
seen = 0
for k in range(24):
    rate = 1 + k / 100

    def model(u, p, t):
        return [rate * (p[0] * u[(i + 1) % 20] - u[i] * np.cos(u[i - 1]) ** (i % 3)) for i in range(20)]

    def solve():
        p = torch.ones(1, dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(model, torch.linspace(0.0, 1.0, 20, dtype=F64), (0.0, 1.0), p)
        u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine="julia").u
        return u.detach().numpy(), torch.autograd.grad(u.sum(), p)[0].item()

    signal.setitimer(signal.ITIMER_REAL, 0.004 * 1.25**k)
    try:
        solve()
    except KeyboardInterrupt:
        seen += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    if k % 4 == 0:
        u, slope = solve()
        from scipy.integrate import solve_ivp
        def at(p):
            return solve_ivp(lambda t, u: model(u, [p], t), (0, 1), np.linspace(0, 1, 20), rtol=1e-10, atol=1e-10, method="DOP853").y[:, -1]
        assert np.allclose(u[-1], at(1.0), rtol=1e-6, atol=1e-7)
        assert abs(slope - (at(1.001) - at(0.999)).sum() / 0.002) < 1e-3 * abs(slope) + 1e-4
assert seen >= 3, seen
check_numbers()
"""
    )


@pytest.mark.parametrize("started_in", ["main", "thread"])
def test_signals_stay_pythons_wherever_julia_was_started(started_in):
    """Handlers that were set before Julia's start, and Ctrl-C and SIGTERM as they are by default."""
    start = "check_numbers()" if started_in == "main" else "t = threading.Thread(target=check_numbers); t.start(); t.join()"
    out = run_script(
        MODELS
        + f"""
heard = []
numbers = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGALRM, signal.SIGQUIT]
for number in numbers:
    signal.signal(number, lambda number, frame: heard.append(number))
{start}
for number in numbers:
    os.kill(os.getpid(), number)
    time.sleep(0.05)
assert heard == numbers, heard
os.kill(os.getpid(), signal.SIGUSR1)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    ps.solve(swinging, ps.Tsit5(), **ENDLESS)
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
check_numbers()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
ps.solve(swinging, ps.Tsit5(), **ENDLESS)
""",
        expected=-signal.SIGTERM,
    )
    assert out.split() == ["interrupted"]


def test_ctrl_c_in_ipython():
    """IPython has a handler of its own, and shows tracebacks its own way."""
    pytest.importorskip("IPython")
    out = run_script(
        PRESS
        + """
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.push({"ps": ps, "swinging": swinging, "ENDLESS": ENDLESS})
press()
result = shell.run_cell("ps.solve(swinging, ps.Tsit5(), progress=True, **ENDLESS)")
assert isinstance(result.error_in_exec, KeyboardInterrupt), result
check_numbers()
print("finished")
"""
    )
    assert out.split()[-1] == "finished"
