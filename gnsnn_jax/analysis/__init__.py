"""What a converted network does: accuracy over time, spikes, plots."""
