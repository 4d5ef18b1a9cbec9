"""The workflow steps as cached Prefect tasks.  Nothing here imports torch."""
