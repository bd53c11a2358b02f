"""Training of QCFS networks: configuration, data, loop, checkpoints."""
