"""What a run proved: figures for programs, a page for people.  Torch-free."""
