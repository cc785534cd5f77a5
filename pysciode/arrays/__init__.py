"""Arrays, tensors and parameters as flat vectors, their devices, and checks of values."""
