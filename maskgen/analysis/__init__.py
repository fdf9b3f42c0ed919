"""Where a trained model looks, and whether it tells which text matches (Tables 4 and 6, Fig. 2)."""
