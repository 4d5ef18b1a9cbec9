"""The workflow stages as cached Prefect tasks.  Nothing here imports torch."""
