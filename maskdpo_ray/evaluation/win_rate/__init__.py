"""Which of two answers a judge prefers, seen in both orders."""
