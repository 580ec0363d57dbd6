"""Maths that losses and models share."""
