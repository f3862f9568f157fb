"""A question, its trainings, its figures."""
