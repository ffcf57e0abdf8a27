"""Sentences about countries, read for claims, and each claim held against the facts."""
