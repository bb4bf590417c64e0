"""Checks of the exercises, one module a chapter; each prints what is right or which step is off."""
