"""`trainer: trlx`: what runs without trlx, and, where TRLX_PYTHON names an environment that has it, the whole."""
