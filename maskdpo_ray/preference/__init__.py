"""From verdicts to preference pairs with token weights."""
