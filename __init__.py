"""palate teaches generative models taste: align them with preferences, score them, collect the votes."""

__version__ = "0.1.0"
