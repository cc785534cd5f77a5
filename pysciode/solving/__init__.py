"""From a problem to its solution: `solve`, its options, callbacks, gradients and ensembles."""
