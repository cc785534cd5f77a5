"""The command line: ``demo``, ``compare``, ``install`` and ``doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .errors import PysciodeError

app = typer.Typer(
    help="Models in Python, solved and differentiated by Julia's SciML.", no_args_is_help=True, pretty_exceptions_enable=False
)


class EngineName(str, Enum):
    """What ``--engine`` takes."""

    auto = "auto"
    julia = "julia"
    embedded = "embedded"


@app.command()
def demo(
    engine: Annotated[EngineName, typer.Option(help="What solves; auto takes Julia where installed.")] = EngineName.auto,
    output: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("lynx-hare.png"),
    quick: Annotated[bool, typer.Option("--quick", help="A looser tolerance, for a first look.")] = False,
) -> None:
    """Fit Lotka-Volterra to the Hudson Bay lynx and hare pelts: estimates, standard errors and a figure."""
    # Imported here: torch takes a second to load, which `--help` and `doctor` need not wait for.
    from .demo import run_demo

    try:
        run_demo(engine.value, output, quick=quick)
    except PysciodeError as error:
        _fail(error)


@app.command()
def compare(
    model: Annotated[Path, typer.Argument(metavar="MODEL.py", help="A Python file with the problems.", show_default=False)],
    problem: Annotated[
        list[str] | None, typer.Option(help="An ODEProblem in it, or a function that returns one; by default all problems. Repeatable.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="A function loss(solution) in it; the sum of squares by default.")] = None,
    sensealg: Annotated[
        list[str] | None, typer.Option(help="A method, as GaussAdjoint or BacksolveAdjoint(checkpointing=False). Repeatable.")
    ] = None,
    algorithm: Annotated[list[str] | None, typer.Option(help="A solver, as Tsit5 or Rodas5P. Repeatable.")] = None,
    rtol: Annotated[
        list[float] | None, typer.Option(help="A relative tolerance; the absolute one is a hundredth of it. Repeatable.")
    ] = None,
    solvers_only: Annotated[bool, typer.Option("--solvers-only", help="Compare solvers, without gradients.")] = False,
    json_file: Annotated[str | None, typer.Option("--json", help="Where the reports go as JSON; - prints that alone.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where the figure goes.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Compare sensitivity methods, or solvers, on the problems in a file; print the report and what to take.

    The exit status is 0 where a problem could be compared, 1 where none could, and 2 for what is asked for wrongly.
    """
    from .comparison import command

    try:
        status = command.compare(
            model, problem or (), loss, sensealg or (), algorithm or (), rtol or (), solvers_only, json_file, plot, quiet
        )
    except (ValueError, TypeError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(status)


@app.command()
def install(
    extra: Annotated[str | None, typer.Argument(help="A further part to install: optimization, diffeqflux, ensembles or cuda.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Also move Julia packages to their newest versions.")] = False,
) -> None:
    """Install the Julia engine: Julia itself where it is missing, and SciML, resolved and precompiled."""
    from .engines.julia.environment import failure_to_start, julia_environment_is_resolved, julia_project
    from .engines.julia.installation import EXTRAS, extra_is_installed, install_extra, resolve

    name = None if extra is None else extra.lower()
    if name is not None and name not in EXTRAS:
        known = "; ".join(f"{key} ({part.purpose})" for key, part in EXTRAS.items() if part.offered)
        typer.echo(f"There is no part {extra!r}; there are {known}. Nothing was installed.", err=True)
        raise typer.Exit(2)

    def show(line: str) -> None:
        typer.echo(line, err=True)

    if not update and (name is None or extra_is_installed(name)) and julia_environment_is_resolved():
        failure = failure_to_start()
        if failure is None:
            what = "The Julia engine" if name is None else name
            typer.echo(f"{what} is installed already, in {julia_project()} (--update brings newer packages).")
            return
        show(f"The Julia engine is installed, and does not start: {failure}\nIt is installed again.")

    try:
        if name is None:
            resolve(show, update=update)
        else:
            install_extra(name, show, update=update)
    except PysciodeError as error:
        _fail(error)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False) -> None:
    """Show each part as ok, missing, or how to mend it."""
    from .doctor.report import examine

    checks = examine()
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("status")
    table.add_column("detail", overflow="fold")
    colours = {"ok": "green", "missing": "red", "note": "yellow"}
    for check in checks:
        table.add_row(check.part, f"[{colours[check.status]}]{check.status}[/]", check.detail)
    console = Console(highlight=False)
    console.print(table)
    # Many parts are mended by one command: each is said once.
    for mend in dict.fromkeys(check.mend for check in checks if check.mend):
        console.print(f"To mend: {mend}")


def _fail(error: PysciodeError) -> None:
    typer.echo(f"{type(error).__name__}: {error}", err=True)
    raise typer.Exit(1)
