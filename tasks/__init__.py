"""The stages of the pipeline as cached Prefect tasks.  No module of this package imports torch."""
