"""Training: the PPO engine, TRL for SFT and the reward model, and trlx for comparison."""
