"""Array models for devices: each loop one kernel."""
