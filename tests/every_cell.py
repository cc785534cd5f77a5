"""Whether tests take the whole product of what they vary, or every pair that has code of its own."""

from __future__ import annotations

import os

ALL = os.environ.get("PYSCIODE_EVERY_CELL") == "1"  # takes hours
