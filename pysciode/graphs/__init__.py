"""The forms of captured models, and the graph of scalar operations.

NumPy's functions work on the graph's scalars as soon as anything of this package is imported.
"""

from . import numpy_functions as numpy_functions
