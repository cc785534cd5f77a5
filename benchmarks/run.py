"""The table of figures: ``python benchmarks/run.py [--json] [task …]``.

On a busy machine set ``OMP_NUM_THREADS=1``: torch's threads wait for each other, which slows the peers by up to ten times.
"""

from __future__ import annotations

import argparse
import importlib

from measure import report

TASKS = (
    "lotka_volterra", "spiral", "odenet", "flow", "latent_ode", "robertson", "crossing", "fitting_loop", "solve_ivp", "new_model", "startup",
    "ensembles", "gpu",
)  # fmt: skip


def main() -> None:
    """Run the named tasks, or all, one after the other in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="task", help=", ".join(TASKS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [result for task in arguments.tasks for result in importlib.import_module(task).results()]
    report(results, as_json=arguments.json)


if __name__ == "__main__":
    main()
