"""Data sets: found, read, split, streamed, augmented."""
