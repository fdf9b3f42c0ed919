"""Cambrian rows and image references → samples; the plan."""
