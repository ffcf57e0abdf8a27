"""Which training topics are near the questions one cares about (paper, table 5)."""
