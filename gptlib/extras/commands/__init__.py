"""The commands of `python -m gptlib`, one module for each kind."""
