"""Finished sets in other tools' formats; `grounding/recorded.py` reads what those tools save."""
