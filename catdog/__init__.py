"""catdog: images in, labels out. Imports nothing heavy; each room is imported by its own name."""

__version__ = "0.1.0"
