"""Blinded labeling by people: the labeling page, and Ground Truth jobs in and out.  Torch-free."""
