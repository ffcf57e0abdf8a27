"""What a run came to, for programs (report.json) and for people (report.html, a table)."""
