"""Short answers: correct, incorrect or not attempted, by reference answers."""
