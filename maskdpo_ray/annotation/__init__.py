"""A verdict for every sentence of every candidate."""
