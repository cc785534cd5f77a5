"""Models with few states as scalar operations."""
