"""The Prefect server: deploy to it, start one with its workers."""
