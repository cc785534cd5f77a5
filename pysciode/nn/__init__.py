"""Model families: ordinary torch modules whose dynamics SciML solves."""

from .augmented import AugmentedNeuralODE
from .concat_squash import ConcatSquashNetwork
from .continuous_flow import ContinuousFlow
from .elbo import ELBO
from .encoders import ODERNNEncoder, RNNEncoder
from .flow_distribution import FlowDistribution
from .kl_annealing import KLAnnealing
from .latent_ode import LatentODE
from .neural_ode import NeuralODE
from .regularization import Regularization
from .scaled import ScaledField
from .time_series import Observations

__all__ = [
    "ELBO",
    "AugmentedNeuralODE",
    "ConcatSquashNetwork",
    "ContinuousFlow",
    "FlowDistribution",
    "KLAnnealing",
    "LatentODE",
    "NeuralODE",
    "ODERNNEncoder",
    "Observations",
    "RNNEncoder",
    "Regularization",
    "ScaledField",
]
