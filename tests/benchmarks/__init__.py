"""`python -m tests.benchmarks` (`make bench`): how fast it is, beside what, and where the time goes."""
