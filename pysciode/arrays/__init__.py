"""Arrays, tensors and parameters as flat vectors, where they lie, and the checks of values."""
