"""Schema of results.json: pydantic records and nothing else."""
