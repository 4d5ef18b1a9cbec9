"""Finished runs: find and open one, rebuild its report, import labels, clean up.  Torch-free."""
