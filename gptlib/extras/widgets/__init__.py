"""Interactive pictures, one module a chapter."""
