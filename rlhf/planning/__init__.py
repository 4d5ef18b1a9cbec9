"""What a run will need, before any money is spent: memory, operations, hours and dollars of each stage.  Torch-free."""
