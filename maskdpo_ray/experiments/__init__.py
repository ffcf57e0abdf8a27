"""What the paper's experiments (jobs/table1.py to jobs/table6.py) have in common."""
