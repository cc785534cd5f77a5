"""The engine without Julia: torchdiffeq, explicit methods in pure torch."""
