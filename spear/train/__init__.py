"""The only training loop, with its checkpoints, averaging, health checks and signals."""
