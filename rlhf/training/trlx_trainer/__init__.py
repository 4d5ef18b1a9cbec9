"""`trainer: trlx`: fine-tuning and PPO by trlx, in a Python environment of its own (deployments/trlx)."""
