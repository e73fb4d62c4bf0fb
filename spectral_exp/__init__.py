"""Hydra-configured experiments for wave-based language models."""

__version__ = "0.1.0"
