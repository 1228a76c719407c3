"""Scores of several judges to preference groups."""
