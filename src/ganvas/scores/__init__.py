"""Scores, each with its protocol."""
