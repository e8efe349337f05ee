"""Commonsense questions as LLM-Adapters (Hu et al. 2023) asks them: seven datasets, and its ready-made files."""
