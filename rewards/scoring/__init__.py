"""Many pictures and many scorers in one go."""
