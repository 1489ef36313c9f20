"""Loops, optimisers, schedules, initialisation. Importing this package imports no torch."""
