"""Lessons: predictions, steps, checks and progress."""
