"""Runs: training and evaluation meet here."""
