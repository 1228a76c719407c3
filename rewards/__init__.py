"""Rewards: what a picture is worth for its prompt, one file per reward."""
