"""Both models' forwards as the pipeline runs them: the same answers and masks, from less work."""
