"""Plan a run before any money is spent: memory, operations, hours and dollars of each stage.  Torch-free."""
