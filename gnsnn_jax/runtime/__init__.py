"""Command line, configuration, devices and signals."""
