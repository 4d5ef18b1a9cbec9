"""Statistics and measurements: intervals, reward calibration, policy comparison, human preference, toxicity."""
