"""The stages: one command each, started as `python -m rlhf.stages.NAME` or by `accelerate launch`."""
