"""What a user calls to convert a network: sites, thresholds, conversion, verification, early stop, folding."""
