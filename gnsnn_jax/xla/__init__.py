"""Repairs of what XLA does slowly on CPUs, each beside what it works around."""
