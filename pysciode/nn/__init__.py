"""Model families: ordinary torch modules whose dynamics SciML solves."""

from .augmented import AugmentedNeuralODE
from .concat_squash import ConcatSquashNetwork
from .continuous_flow import ContinuousFlow
from .flow_distribution import FlowDistribution
from .neural_ode import NeuralODE
from .regularization import Regularization

__all__ = ["AugmentedNeuralODE", "ConcatSquashNetwork", "ContinuousFlow", "FlowDistribution", "NeuralODE", "Regularization"]
