"""Fitting models to data."""

from .train import train
from .training import EarlyStopping, Training

__all__ = ["EarlyStopping", "Training", "train"]
