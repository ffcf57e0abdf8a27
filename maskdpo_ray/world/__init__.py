"""The embedded closed world: people whose facts are known exactly, a tiny policy that read a noisy
encyclopedia about them, and an annotator that knows the truth. No download, exact verdicts.
"""
