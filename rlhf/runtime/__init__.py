"""What runs inside a stage process: the contract of a stage, ranks, metrics log, trackers."""
