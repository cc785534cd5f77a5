"""The engine that solves by Julia's SciML, in this process."""
