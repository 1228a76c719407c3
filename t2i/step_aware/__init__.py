"""Training of SPO's step-aware preference model: which of two clean estimates is better, at any time of the process."""
