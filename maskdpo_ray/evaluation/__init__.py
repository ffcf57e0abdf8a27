"""How true the answers to held-out questions are."""
