"""Networks that come trained: for the features of scores, and for image encoders that start from them."""
