"""Florence-2's answers without transformers' generate: the same tokens, from slots that do not wait."""
