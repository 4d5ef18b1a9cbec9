"""The runtime of a stage process: contract of a stage, ranks, seeds, metrics log, trackers."""
