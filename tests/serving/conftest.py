"""vLLM pins its own torch: `make test-vllm` runs these tests beside it; elsewhere those that need it skip."""

import os
from importlib.util import find_spec

# Engines in this process: they start in seconds. nobind: cores are shared with the other tests' processes.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

collect_ignore = [] if find_spec("vllm") else ["engine.py"]  # doctests are looked for in every file
