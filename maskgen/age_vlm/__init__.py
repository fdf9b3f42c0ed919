"""AGE-VLM: a LLaMA that looks through cross-attention layers (Section 3.2)."""
