"""Fitting models to data."""

from ..errors import require_extra_package

require_extra_package("pandas", "pysciode.fitting", "analysis")

from .collocation import collocate, collocation_loss
from .experiment import Experiment
from .fit import fit
from .fit_result import FitResult
from .growing_horizon import GrowingHorizon
from .information import NotIdentifiable
from .likelihoods import LogNormal, NegativeBinomial, Normal, Poisson
from .multiple_shooting import MultipleShooting, multiple_shooting
from .prediction import Prediction
from .profile_likelihood import Profile
from .train import train
from .train_result import EarlyStopping, Training
from .unknowns import Parameter

__all__ = [
    "EarlyStopping",
    "Experiment",
    "FitResult",
    "GrowingHorizon",
    "LogNormal",
    "MultipleShooting",
    "NegativeBinomial",
    "Normal",
    "NotIdentifiable",
    "Parameter",
    "Poisson",
    "Prediction",
    "Profile",
    "Training",
    "collocate",
    "collocation_loss",
    "fit",
    "multiple_shooting",
    "train",
]
