"""What the papers say: activations, neurons, calibrations, threshold rules and their names; needs JAX alone."""
