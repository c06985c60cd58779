"""Images -> ranges -> INT8 and FP16 graphs."""
