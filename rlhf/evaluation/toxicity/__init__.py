"""Classifiers that say how toxic a text is."""
