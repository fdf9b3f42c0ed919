"""A trained model's attention and hidden states: maps, metrics, similarity (Tables 4 and 6, Fig. 2)."""
