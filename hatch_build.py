"""Puts the Julia package into the wheel, beside a juliapkg.json that names it there.

In a checkout `pysciode/juliapkg.json` finds the Julia package at `../julia`. In site-packages that would be a top-level
directory `julia`, which belongs to someone else; so the wheel carries it as `pysciode/julia_package`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE_IN_WHEEL = "julia_package"


class JuliaPackageHook(BuildHookInterface):
    """Adds `julia/` and the rewritten `juliapkg.json` to a standard wheel; an editable one uses the checkout as it is."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        requirements = json.loads((root / "pysciode" / "juliapkg.json").read_text())
        requirements["packages"]["PySciODE"]["path"] = PACKAGE_IN_WHEEL
        self._scratch = tempfile.TemporaryDirectory()
        rewritten = Path(self._scratch.name) / "juliapkg.json"
        rewritten.write_text(json.dumps(requirements, indent=4) + "\n")

        include = build_data["force_include"]
        include[str(rewritten)] = "pysciode/juliapkg.json"
        # Named one by one: a developer's Manifest.toml must not travel.
        for part in ("Project.toml", "src", "ext"):
            source = root / "julia" / part
            if source.exists():
                include[str(source)] = f"pysciode/{PACKAGE_IN_WHEEL}/{part}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._scratch.cleanup()
