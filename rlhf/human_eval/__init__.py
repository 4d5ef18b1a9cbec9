"""People compare the answers of two models without knowing which wrote which."""
