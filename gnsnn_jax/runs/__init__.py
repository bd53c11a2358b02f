"""Run directories, checkpoints and stored spiking networks."""
