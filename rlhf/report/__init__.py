"""Turns results into report.html, plots, the model card and a comparison of two runs."""
