"""The training loop, once for all systems."""
