"""``python -m pysciode compare``: from a file to a printed report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import PysciodeError
from ..methods.algorithms import check_algorithm
from ..problems.base import Problem
from .model_file import find_loss, find_problems, load_module, parse_sensealg
from .report.reports import AdjointReport, SolverReport

PAGE_WIDTH = 160
"""Characters of a table that does not go to a terminal."""


@dataclass(frozen=True)
class Comparison:
    """What the command line asks for; see the command's own help for the fields."""

    model: Path
    problems: Sequence[str] = ()
    loss: str | None = None
    sensealgs: Sequence[str] = ()
    algorithms: Sequence[str] = ()
    rtols: Sequence[float] = ()
    solvers_only: bool = False
    json_file: str | None = None
    plot: Path | None = None
    quiet: bool = False

    def run(self) -> int:
        """Compare, print, save; the exit status, 0 where at least one problem could be compared, and otherwise 1.

        Raises
        ------
        ValueError, TypeError
            For what is asked for wrongly.
        """
        if self.solvers_only and (self.loss or self.sensealgs):
            raise ValueError("--solvers-only compares without gradients: leave out --loss and --sensealg")
        arguments: dict[str, Any] = {"progress": not self.quiet}
        if self.algorithms:
            arguments["algorithms"] = [check_algorithm(x) for x in self.algorithms]
        if self.rtols:
            arguments["tolerances"] = list(self.rtols)
        if self.sensealgs:
            arguments["sensealgs"] = [parse_sensealg(x) for x in self.sensealgs]
        module = load_module(self.model)
        problems = find_problems(module, self.problems)
        if self.loss:
            arguments["loss"] = find_loss(module, self.loss)
        reports: dict[str, AdjointReport | SolverReport] = {}
        for name, problem in problems.items():
            try:
                reports[name] = self._compare(problem, arguments)
            except PysciodeError as error:
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            self._show(name, reports[name], several=len(problems) > 1)
        self._save(reports)
        compared = [x for x in reports.values() if any(row.status == "ok" for row in x.rows)]
        if not compared:
            print("nothing could be compared", file=sys.stderr)
        return 0 if compared else 1

    def _compare(self, problem: Problem, arguments: dict[str, Any]) -> AdjointReport | SolverReport:
        if self.solvers_only:
            from .work_precision import work_precision

            return work_precision(problem, **arguments)
        from .adjoints import compare_adjoints

        return compare_adjoints(problem, **arguments)

    def _show(self, name: str, report: AdjointReport | SolverReport, several: bool) -> None:
        if self.json_file == "-":
            return
        if several:
            print(f"\n{name}\n{'=' * len(name)}")
        if sys.stdout.isatty():
            Console().print(report)
        else:
            print(report.to_text(PAGE_WIDTH))
        if isinstance(report, AdjointReport) and any(row.status == "ok" for row in report.rows):
            print()
            if sys.stdout.isatty():
                Console().print(report.recommend())
            else:
                print(report.recommend())

    def _save(self, reports: dict[str, AdjointReport | SolverReport]) -> None:
        """The JSON object has a report for each problem by name."""
        if self.json_file is not None:
            found = {name: x.to_dict() for name, x in reports.items()}
            text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
            if self.json_file == "-":
                print(text)
            else:
                Path(self.json_file).write_text(text + "\n", encoding="utf-8")
        if self.plot is not None:
            for name, report in reports.items():
                path = self.plot if len(reports) == 1 else self.plot.with_stem(f"{self.plot.stem}-{name}")
                report.plot(path)
