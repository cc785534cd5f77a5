"""Neural ODEs, a continuous flow and an ensemble on a GPU, against other libraries and against what the GPU can do at most.

Run by itself: python benchmarks/gpu.py [--device cuda:0] [--precision high] [--quick] [--json] [contestant …]

Each contestant has a process of its own, so that nobody's memory or libraries are in another's way. JAX takes memory as it
needs it, and not most of the GPU at once.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_ceilings import ceilings, synchronize
from gpu_contestants import CONTESTANTS, Run, Workload
from measure import Result, median_milliseconds
from rich.console import Console
from rich.table import Table

PATIENCE = 1200.0
"""Seconds that a process may take for one workload."""


def workloads(device: str, dtype: str, *, quick: bool) -> list[Workload]:
    """Networks of 10⁴ to 10⁷ parameters on batches of 10² to 10⁵, forwards and with the gradient, flows of two sizes, and
    10⁶ Lorenz systems.

    The flows are of the size of those for the data set MINIBOONE in Grathwohl et al. (2019, arXiv:1810.01367), and on ten
    times that batch.
    """
    if quick:
        networks, flows, members = itertools.product((32, 128), (16, 64)), [(2, 32, 64)], 1000
    else:
        networks = itertools.product((55, 256, 937, 3098), (100, 1000, 10_000, 100_000))
        flows, members = [(43, 860, 1000), (43, 860, 10_000)], 1_000_000
    kinds = ("forward", "gradient")
    found = [Workload(kind, 64, hidden, batch, device, dtype) for hidden, batch in networks for kind in kinds]
    found += [Workload("flow", *sizes, device, dtype) for sizes in flows]
    return [*found, Workload("ensemble", 3, 0, members, device, dtype)]


@dataclass
class Figure:
    """What was measured of one contestant at one workload.

    Attributes
    ----------
    first
        Seconds to the first result of this workload, everything that is compiled for it included.
    milliseconds
        Median after the first.
    memory
        Highest number of bytes on the device at a time while it was timed, by who holds them; JAX's are since its process began.
    norms
        Of what came out.
    evaluations
        Of the network in one run, where that is known.
    note
        Why there are no figures.
    """

    first: float | None = None
    milliseconds: float | None = None
    memory: dict[str, int] | None = None
    norms: list[float] | None = None
    evaluations: int | None = None
    note: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# In a contestant's process


def measure(name: str, work: Workload, budget: float) -> Figure:
    """Time one contestant at one workload; what fails is noted."""
    try:
        began = time.perf_counter()
        run = _synchronized(CONTESTANTS[name](work), work.device)
        outcome = run()
        first = time.perf_counter() - began
        meter = Meter(name, work.device)
        milliseconds = median_milliseconds(run, budget=budget, warm_up=budget / 4)
        return Figure(first, milliseconds, meter.peak(), outcome.norms(), outcome.evaluations)
    except Exception as error:
        said = str(error).strip()
        return Figure(note=f"{type(error).__name__}: {said.splitlines()[0] if said else ''}")


def _synchronized(run: Run, device: str) -> Run:
    def synchronized():
        outcome = run()
        synchronize(device)
        return outcome

    return synchronized


class Meter:
    """Memory of the device since this was made."""

    def __init__(self, name: str, device: str) -> None:
        self.on_gpu, self.device = device.startswith("cuda"), device
        self.julia = _julia_pool() if self.on_gpu and name.startswith("pysciode") else None
        self.jax = self.on_gpu and name.startswith("diffrax")
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        if self.julia:
            self.julia.reset()

    def peak(self) -> dict[str, int]:
        """Bytes by allocator; none on the CPU."""
        if not self.on_gpu:
            return {}
        found = {"torch": torch.cuda.max_memory_allocated(self.device)}
        if self.julia:
            found["CUDA.jl"] = int(self.julia.peak())
        if self.jax:
            import jax

            found["JAX"] = jax.devices("gpu")[0].memory_stats()["peak_bytes_in_use"]
        return found


def _julia_pool() -> Any:
    """CUDA.jl's memory pool: highest use, which can be reset."""
    import juliacall

    return juliacall.Main.seval("""
        let CUDA = only(m for (id, m) in Base.loaded_modules if id.name == "CUDA")
            Core = isdefined(CUDA, :CUDACore) ? CUDA.CUDACore : CUDA
            pool() = Core.pool_create(CUDA.device())
            (reset = () -> Core.attribute!(pool(), Core.MEMPOOL_ATTR_USED_MEM_HIGH, UInt64(0)),
             peak = () -> Int(Core.attribute(UInt64, pool(), Core.MEMPOOL_ATTR_USED_MEM_HIGH)))
        end
    """)


def run_contestant(name: str, works: list[tuple[int, Workload]], budget: float) -> None:
    """Print a line of JSON for each workload as soon as it is done."""
    for index, work in works:
        figure = measure(name, work, budget)
        print(json.dumps({"index": index, **asdict(figure)}), flush=True)
        gc.collect()
        if work.device.startswith("cuda"):
            torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------------------------------
# In the process that reports


def figures(name: str, works: list[Workload], arguments: list[str]) -> Iterator[tuple[int, Figure]]:
    """Of one contestant at all workloads that it takes part in; a process that dies costs one of them."""
    left = [i for i, work in enumerate(works) if work.kind in ("gradient", "flow") or "djoint" not in name]
    while left:
        command = [sys.executable, __file__, "--contestant", name, "--only", ",".join(map(str, left)), *arguments]
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | dict(os.environ)
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, timeout=PATIENCE * len(left),
                cwd=Path(__file__).parent,
            )  # fmt: skip
            lines, reason = done.stdout, f"its process ended with status {done.returncode}"
        except subprocess.TimeoutExpired as error:
            lines, reason = (error.stdout or b"").decode(), "it took too long"
        for line in lines.splitlines():
            if line.startswith('{"index"'):
                found = json.loads(line)
                index = found.pop("index")
                left.remove(index)
                yield index, Figure(**found)
        if left:
            yield left.pop(0), Figure(note=reason)


def main() -> None:
    """Measure, and print tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestants", nargs="*", metavar="contestant", help=", ".join(CONTESTANTS))
    parser.add_argument("--device", default="cuda:0", help="cuda:0, …, or cpu to see that all of it works")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--precision", default="highest", choices=("highest", "high"), help="of float32 products; high: TF32")
    parser.add_argument("--quick", action="store_true", help="small networks, little time")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = set(asked.contestants) - CONTESTANTS.keys()
    if unknown:
        parser.error(f"there is no contestant {', '.join(sorted(unknown))}")
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu --quick shows that all of it works")
    torch.set_float32_matmul_precision(asked.precision)
    works = workloads(asked.device, asked.dtype, quick=asked.quick)
    if asked.contestant:
        run_contestant(asked.contestant, [(int(i), works[int(i)]) for i in asked.only.split(",")], 0.1 if asked.quick else 1.0)
        return
    passed_on = ["--device", asked.device, "--dtype", asked.dtype, "--precision", asked.precision, *["--quick"] * asked.quick]
    limits = ceilings(asked.device, quick=asked.quick)
    names = asked.contestants or list(CONTESTANTS)
    found = {name: dict(figures(name, works, passed_on)) for name in names}
    if asked.json:
        rows = [{"contestant": n, **asdict(works[i]), **asdict(f)} for n, row in found.items() for i, f in sorted(row.items())]
        print(json.dumps({"device": _device_name(asked.device), "ceilings": limits, "rows": rows}, indent=2))
        return
    _report(works, found, limits, asked)


def results() -> list[Result]:
    """For run.py: the quick workloads, where there is a GPU; run by itself, this file tells more."""
    device = "cuda:0"
    if not torch.cuda.is_available():
        return [Result("on a GPU", notes={"all": "torch sees none (python benchmarks/gpu.py --device cpu --quick does without)"})]
    works = workloads(device, "float32", quick=True)
    rows = [Result(f"on a GPU: {_title(work)}") for work in works]
    for name in CONTESTANTS:
        for index, figure in figures(name, works, ["--device", device, "--quick"]):
            rows[index].milliseconds[name] = figure.milliseconds
            if figure.note:
                rows[index].notes[name] = figure.note
    return rows


_KINDS = {
    "forward": "neural ODE",
    "gradient": "neural ODE with gradient",
    "flow": "continuous flow, training step",
    "ensemble": "Lorenz systems, each by itself",
}


def _title(work: Workload) -> str:
    size = f"{work.batch} of them" if work.kind == "ensemble" else f"{work.parameters:.1e} parameters, batch {work.batch}"
    return f"{_KINDS[work.kind]}, {size}"


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU"


def _report(works: list[Workload], found: dict[str, dict[int, Figure]], limits: dict[str, float], asked: argparse.Namespace) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=180)
    where = f"On {_device_name(asked.device)}, {asked.dtype}, products of precision {asked.precision}"
    console.print(f"{where}. At most:", highlight=False)
    for name, value in limits.items():
        console.print(f"  {name}: {value / 1e9:.4g} {'GB/s' if name == 'bandwidth' else 'GFLOP/s'}", highlight=False)
    rate = limits["TF32" if asked.dtype == "float32" and asked.precision == "high" and "TF32" in limits else asked.dtype]
    table = Table("solve", "parameters", "batch", "contestant", "median", "ratio", "first", "memory", "of the rate", "differs by")
    for index, work in enumerate(works):
        row = {name: by_work[index] for name, by_work in found.items() if index in by_work}
        reference = row.get("pysciode", Figure()).milliseconds
        expected = row.get("torchdiffeq", Figure()).norms
        for name, figure in row.items():
            if figure.milliseconds is None:
                continue
            ratio = "" if reference is None else f"{figure.milliseconds / reference:.2g}×"
            memory = ", ".join(f"{who} {size / 2**20:.4g} MiB" for who, size in (figure.memory or {}).items())
            flops = work.flops * (figure.evaluations or 0)
            reached = f"{flops / (1e-3 * figure.milliseconds * rate):.1%}" if flops else ""
            table.add_row(
                _KINDS[work.kind], f"{work.parameters:.1e}", str(work.batch), name, f"{figure.milliseconds:.4g} ms", ratio,
                f"{figure.first:.2g} s", memory, reached, _difference(figure.norms, expected),
            )  # fmt: skip
        table.add_section()
    console.print(table)
    for name, by_work in found.items():
        for note in dict.fromkeys(figure.note for figure in by_work.values() if figure.note):
            where = [_title(works[i]) for i, figure in sorted(by_work.items()) if figure.note == note]
            places = "everywhere" if len(where) == len(by_work) else "; ".join(where)
            console.print(f"{name}, {places}: {note}", highlight=False, markup=False)


def _difference(norms: list[float] | None, expected: list[float] | None) -> str:
    """Of the norms of values and gradients from torchdiffeq's, relatively: solvers to the same tolerance differ by it."""
    if norms is None or expected is None or len(norms) != len(expected):
        return ""
    return f"{max(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(norms, expected, strict=True)):.0e}"


if __name__ == "__main__":
    main()
