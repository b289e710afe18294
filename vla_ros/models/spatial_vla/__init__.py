"""SpatialVLA: spatial action tokens, and a language model that speaks them."""
