"""Training from prompts alone: the policy draws, a judge prefers, the policy learns from its own steps."""
