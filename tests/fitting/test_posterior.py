"""NUTS against a published posterior, and against one that is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.fitting import Normal, Parameter, fit
from pysciode.fitting.lotka_volterra import fit_pelts

pytestmark = pytest.mark.slow

REFERENCE = {
    "alpha": (0.546864, 0.303036),
    "beta": (0.0277473, 0.000787172),
    "gamma": (0.800095, 0.648139),
    "delta": (0.0240859, 0.000592578),
    "u0[0]": (34.0352, 1166.90),
    "u0[1]": (5.93590, 35.5163),
    "sigma[hare]": (0.248057, 0.0634037),
    "sigma[lynx]": (0.251017, 0.0649094),
}
"""Means and mean squares of the reference draws of ``hudson_lynx_hare-lotka_volterra`` in posteriordb (Magnusson et al.,
"posteriordb: Testing, benchmarking and developing Bayesian inference algorithms", 2024), which is Carpenter's model by Stan."""


@pytest.mark.julia
def test_the_posterior_of_the_pelts_is_the_published_one():
    result = fit_pelts(engine="julia", priors=True).fit
    draws = result.sample(400, tune=300, chains=2, seed=1, progress_bar=False).posterior
    for name, (mean, square) in REFERENCE.items():
        sd = np.sqrt(square - mean**2)
        found = draws[name].values
        # 800 draws with an autocorrelation: the mean's own error is below a tenth of the standard deviation.
        assert found.mean() == pytest.approx(mean, abs=0.3 * sd), name
        assert found.std() == pytest.approx(sd, rel=0.25), name
    band = result.predict(np.array([0.0, 3.0]), draws=_stack(draws, result.names))
    assert band.mean[0] == pytest.approx([REFERENCE["u0[0]"][0], REFERENCE["u0[1]"][0]], rel=0.05)


def _stack(draws, names):
    return np.stack([draws[name].values.ravel()[::20] for name in names], 1)


@pytest.mark.julia
def test_a_bounded_parameter_has_the_density_that_its_prior_says():
    # Data of no weight: the posterior is the prior, here an exponential one on the positive numbers.
    problem = ps.ODEProblem(lambda u, p, t: [p["a"] - u[0]], [0.0], (0.0, 1.0), {"a": 1.0})
    prior = torch.distributions.Exponential(torch.tensor(2.0))
    given = {"a": Parameter(1.0, lower=0, prior=prior)}
    result = fit(problem, ([1.0], [0.5]), given, likelihood=Normal(1e3), engine="julia", progress=False)
    a = result.sample(1000, tune=300, chains=2, seed=0, progress_bar=False).posterior["a"].values
    assert a.mean() == pytest.approx(0.5, abs=0.06) and a.std() == pytest.approx(0.5, abs=0.08)
    assert (a > 0).all()


@pytest.mark.julia
def test_what_has_no_prior_is_named():
    problem = ps.ODEProblem(lambda u, p, t: [p["a"] - u[0]], [0.0], (0.0, 1.0), {"a": 1.0})
    result = fit(problem, ([0.5, 1.0], [0.5, 0.7]), likelihood=Normal(0.1), engine="julia", progress=False)
    with pytest.warns(UserWarning, match="no prior is given for a"):
        result.sample(20, tune=20, chains=1, seed=0, progress_bar=False)
    with pytest.raises(ValueError, match="draws"):
        result.sample(0)
