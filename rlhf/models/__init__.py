"""Models: load and save, tokenize, sample, decode."""
