"""Steered models in lm-evaluation-harness."""
