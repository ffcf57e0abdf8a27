"""People in the loop: the most disputed sentences out, their labels back in."""
