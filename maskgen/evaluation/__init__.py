"""The evidence: benchmarks of Table 2, their scorers, and what a score is worth (Section 4)."""
