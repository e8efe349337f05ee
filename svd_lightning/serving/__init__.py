"""Steered decoding inside vLLM: the folder that vLLM serves, the plugin that vLLM loads, and offline batches."""
