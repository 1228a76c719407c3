"""Reward models, trained on preference groups: losses, networks, held-out report, and the recipes' way to a run."""
