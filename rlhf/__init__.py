"""RLHF as a workflow: the stages, their maths and their data.  Nothing here imports prefect."""
