"""A language model as judge: it is asked which of two responses is better."""
