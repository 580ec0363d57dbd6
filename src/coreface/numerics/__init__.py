"""Numerical building blocks shared by losses, models, data and evaluation."""
