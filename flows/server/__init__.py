"""The Prefect server: deploy to it, or start one with its workers."""
