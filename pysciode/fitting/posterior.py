"""The posterior distribution of the parameters, by NUTS."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..arrays.real_values import whole_number
from ..errors import require_extra_package
from .objective import Objective

if TYPE_CHECKING:
    from .fit_result import FitResult


def sample_posterior(
    result: FitResult, *, draws: int = 1000, tune: int = 500, chains: int = 4, seed: int | None = None, **options: Any
) -> Any:
    """Draw from the posterior of all that was estimated, by the No-U-Turn sampler of nutpie.

    The density is the fit's likelihood times its priors, sampled on the scale without bounds with the Jacobian of that
    change of variables. Hoffman & Gelman, "The No-U-Turn Sampler", JMLR 15 (2014).

    Parameters
    ----------
    result
        The fit; chains begin about its estimates.
    draws, tune, chains
        Draws of each chain, draws before them to adapt to, and chains.
    seed
        Seed of the sampler and of the starts of the chains.
    options
        Further options of ``nutpie.sample``: ``progress_bar``, ``cores``, ``target_accept``, …

    Returns
    -------
    arviz.InferenceData
        Its posterior has a variable for each name in ``result.names``.

    Raises
    ------
    ImportError
        If nutpie is not installed.
    ValueError
        If a count is not positive.

    Warns
    -----
    UserWarning
        If something has no prior: its prior is then flat between its bounds, and the posterior may be improper.
    """
    require_extra_package("nutpie", "sampling", "bayes")
    import nutpie
    from nutpie import compiled_pyfunc

    for name, value in (("draws", draws), ("tune", tune), ("chains", chains)):
        whole_number(value, name, 1)
    objective = result._objective()
    unknowns = objective.unknowns
    flat = [n for n, p in zip(unknowns.names, unknowns.parameters, strict=True) if p.prior is None]
    if flat:
        warnings.warn(f"no prior is given for {', '.join(flat)}: it is flat between the bounds", UserWarning, stacklevel=3)
    z = unknowns.unbounded(result.values)
    spread = _spread(result, z)
    model = compiled_pyfunc.from_pyfunc(
        ndim=len(z),
        make_logp_fn=lambda: lambda point: _log_density(objective, point),
        make_expand_fn=lambda *_: lambda point, **_: _named(objective, point),
        expanded_dtypes=[np.dtype("float64")] * len(z),
        expanded_shapes=[()] * len(z),
        expanded_names=list(unknowns.names),
        make_initial_point_fn=lambda at: z + spread * np.random.default_rng(at).standard_normal(len(z)),
    )
    return nutpie.sample(model, draws=draws, tune=tune, chains=chains, seed=seed, **options)


def _log_density(objective: Objective, z: np.ndarray) -> tuple[float, np.ndarray]:
    found = objective.log_density(z, of_z=True)
    # Minus infinity is a divergence to the sampler, which turns back.
    return (-np.inf, np.zeros(len(z))) if found is None else found


def _named(objective: Objective, z: np.ndarray) -> dict[str, np.ndarray]:
    values = objective.unknowns.values(torch.tensor(z, dtype=torch.float64)).numpy()
    return {name: np.asarray(value) for name, value in zip(objective.unknowns.names, values, strict=True)}


def _spread(result: FitResult, z: np.ndarray) -> np.ndarray:
    """How far from the estimates chains begin: a standard error, on the scale without bounds."""
    if result.covariance is None:
        return np.full(len(z), 0.1)
    errors = result.unbounded()[1]
    return np.where(np.isfinite(errors), np.minimum(errors, 1.0), 0.1)
