"""What the site needs beyond Sphinx and MyST."""
