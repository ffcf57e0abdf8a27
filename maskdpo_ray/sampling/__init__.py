"""K candidates per question: sampled from the policy, or taken from the input."""
