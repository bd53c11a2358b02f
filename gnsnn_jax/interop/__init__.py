"""Exchange with other frameworks."""
