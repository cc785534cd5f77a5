"""``python -m pysciode compare``: from a file to a printed report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import PysciodeError
from .adjoints import compare_adjoints
from .model_file import find_loss, find_problems, load_module
from .report.rendering import to_text
from .report.reports import AdjointReport, SolverReport
from .work_precision import work_precision


def compare(
    model: Path,
    problems: Sequence[str],
    loss: str | None,
    sensealgs: Sequence[str],
    algorithms: Sequence[str],
    rtols: Sequence[float],
    solvers_only: bool,
    json_file: str | None,
    plot: Path | None,
    quiet: bool,
) -> int:
    """Compare, print, save; the exit status, 0 where at least one problem could be compared, and otherwise 1.

    The arguments are those of the command, whose help tells of them; raises ValueError or TypeError for what is asked for wrongly.
    """
    if solvers_only and (loss or sensealgs):
        raise ValueError("--solvers-only compares without gradients: leave out --loss and --sensealg")
    module = load_module(model)
    found = find_problems(module, problems)
    asked = {"algorithms": algorithms, "sensealgs": sensealgs, "tolerances": rtols, "loss": find_loss(module, loss) if loss else None}
    arguments = {"progress": not quiet, **{name: x for name, x in asked.items() if x}}
    reports: dict[str, AdjointReport | SolverReport] = {}
    for name, problem in found.items():
        try:
            reports[name] = work_precision(problem, **arguments) if solvers_only else compare_adjoints(problem, **arguments)
        except PysciodeError as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        if json_file != "-":
            if len(found) > 1:
                print(f"\n{name}\n{'=' * len(name)}")
            shown: list[Any] = [reports[name]]
            if not solvers_only and _has_results(reports[name]):
                shown += ["", reports[name].recommend()]
            for x in shown:
                if sys.stdout.isatty():
                    Console().print(x)
                else:
                    print(to_text(x))
    if json_file is not None:
        text = json.dumps({name: x.to_dict() for name, x in reports.items()}, indent=2, ensure_ascii=False, allow_nan=False)
        if json_file == "-":
            print(text)
        else:
            Path(json_file).write_text(text + "\n", encoding="utf-8")
    for name, report in reports.items() if plot else ():
        report.plot(plot if len(reports) == 1 else plot.with_stem(f"{plot.stem}-{name}"))
    if any(_has_results(x) for x in reports.values()):
        return 0
    print("nothing could be compared", file=sys.stderr)
    return 1


def _has_results(report: AdjointReport | SolverReport) -> bool:
    return any(row.status == "ok" for row in report.rows)
