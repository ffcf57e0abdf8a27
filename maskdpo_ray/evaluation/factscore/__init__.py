"""FActScore (Min et al., 2023): the share of an answer's atomic facts that a page supports."""
