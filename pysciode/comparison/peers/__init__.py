"""Other libraries as contestants: torchdiffeq, diffrax, SciPy."""
