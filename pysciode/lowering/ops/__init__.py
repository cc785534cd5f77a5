"""The table of operations: one row each, for every backend."""
