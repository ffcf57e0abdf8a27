"""vLLM inside one process, and the one place where prompts are built."""
