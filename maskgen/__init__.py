"""maskgen: grounding masks for attention-guided vision-language models (AGE-VLM)."""

__version__ = "0.1.0"
