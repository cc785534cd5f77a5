"""Torch models: traced, with their derivatives, into graphs of ATen operations."""
