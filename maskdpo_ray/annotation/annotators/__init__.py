"""A file for each annotator, named after it."""
