"""What vLLM loads. It imports vLLM, and nothing else of the package imports it."""
