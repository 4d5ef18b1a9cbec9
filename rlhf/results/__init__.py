"""Schema of results.json: pydantic models without other dependencies."""
