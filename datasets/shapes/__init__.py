"""The shapes world: pictures of coloured shapes, GenEval's six prompt categories, and an exact oracle."""
