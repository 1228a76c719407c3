"""PAL: tastes per user."""
