"""Array models as loops over buffers."""
