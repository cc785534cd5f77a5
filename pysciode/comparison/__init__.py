"""Solvers and adjoint methods side by side, on one's own model."""
