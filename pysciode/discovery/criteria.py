"""Information criteria of least squares.

Akaike, "A new look at the statistical model identification" (IEEE Transactions on Automatic Control 19, 1974); Hurvich,
Tsai, "Regression and time series model selection in small samples" (Biometrika 76, 1989) for AICc; Schwarz, "Estimating
the dimension of a model" (Annals of Statistics 6, 1978) for BIC. For sparse regression of dynamics: Mangan, Kutz,
Brunton, Proctor, "Model selection for dynamical systems via sparse regression and information criteria" (Proceedings of
the Royal Society A 473, 2017, arXiv:1701.01773), section 2.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd

Criterion = Literal["aic", "aicc", "bic"]
CRITERIA: tuple[Criterion, ...] = ("aic", "aicc", "bic")


def information_criteria(deviance: float, n: float, parameters: int) -> dict[Criterion, float]:
    """AIC, AICc and BIC; smaller is better.

    Parameters
    ----------
    deviance
        Minus twice the largest log likelihood, up to a constant that all models of the same data share.
    n
        Number of independent observations.
    parameters
        How many numbers were estimated, the error's size among them.

    Returns
    -------
    dict
        AICc is infinite where there are too few observations for it.
    """
    aic = deviance + 2 * parameters
    spare = n - parameters - 1
    aicc = aic + 2 * parameters * (parameters + 1) / spare if spare > 0 else math.inf
    return {"aic": aic, "aicc": aicc, "bic": deviance + math.log(n) * parameters}


def deviance(rss: float, samples: int, n: float) -> float:
    """Minus twice the log likelihood of least squares, for normal errors of unknown size; constants are left out.

    Parameters
    ----------
    rss
        Sum of squares of the residuals of all `samples`.
    n
        How many independent ones they are worth.
    """
    return n * math.log(rss / samples) if rss > 0 else -math.inf


def ranked(table: pd.DataFrame, criterion: Criterion, within: float) -> tuple[pd.DataFrame, list[int]]:
    """The rows in order of preference, and where they stood.

    First those with a criterion at most `within` from the lowest, the one with the fewest terms in front; then the
    others, by the criterion. A column ``delta`` holds the distance from the lowest.
    """
    values = table[criterion].to_numpy(float)
    lowest = values.min()
    delta = values - lowest if np.isfinite(lowest) else np.where(values == lowest, 0.0, np.inf)
    close = delta <= within
    size = table["terms"].to_numpy()
    order = sorted(range(len(table)), key=lambda i: (not close[i], size[i] if close[i] else 0, delta[i], size[i]))
    out = table.assign(delta=delta).iloc[order].reset_index(drop=True)
    return out, order


def check_within(within: object) -> None:
    """Raise `ValueError` unless `within` is a number of 0 or more."""
    if isinstance(within, bool) or not isinstance(within, (int, float)) or not within >= 0:
        raise ValueError(f"within must be a number of 0 or more, not {within!r}")


def correlation_time(residuals: np.ndarray) -> float:
    """How many neighbouring residuals carry the information of one, at least 1.

    One and twice the sum of the autocorrelations before the first that isn't positive.

    Parameters
    ----------
    residuals
        In the order in which they were taken, shape ``(n,)``.
    """
    x = residuals - residuals.mean()
    total = float(x @ x)
    if total == 0.0:
        return 1.0
    spectrum = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    correlations = np.fft.irfft(spectrum)[1 : len(x)] / total
    negative = np.flatnonzero(correlations <= 0)
    return 1.0 + 2.0 * float(correlations[: negative[0] if len(negative) else None].sum())
