"""Fitting models to data."""

from .experiment import Experiment
from .fit import fit
from .fit_result import FitResult
from .information import NotIdentifiable
from .likelihoods import LogNormal, NegativeBinomial, Normal, Poisson
from .prediction import Prediction
from .profile_likelihood import Profile
from .train import train
from .training import EarlyStopping, Training
from .unknowns import Parameter

__all__ = [
    "EarlyStopping",
    "Experiment",
    "FitResult",
    "LogNormal",
    "NegativeBinomial",
    "Normal",
    "NotIdentifiable",
    "Parameter",
    "Poisson",
    "Prediction",
    "Profile",
    "Training",
    "fit",
    "train",
]
