"""A traced network: its operations, which of them are activations, what spikes reach, and its simulation in time."""
