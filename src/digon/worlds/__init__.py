"""Activations whose cause is known: the truth that every estimator is checked against."""
