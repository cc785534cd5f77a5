"""From a trained network, or straight from data, to equations."""

from ..errors import require_extra_package

require_extra_package("pandas", "pysciode.discovery", "analysis")

from .criteria import information_criteria
from .discover import discover
from .equations import Candidate, DiscoveredEquations
from .physics import Physics
from .refit import refit
from .select import select

__all__ = ["Candidate", "DiscoveredEquations", "Physics", "discover", "information_criteria", "refit", "select"]
