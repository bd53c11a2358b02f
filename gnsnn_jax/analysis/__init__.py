"""What a converted network does: accuracy over time, spikes, errors, operations, energy, pictures."""
