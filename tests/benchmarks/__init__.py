"""`python -m tests.benchmarks` (`make bench`): speed and memory, compared with other implementations."""
