"""The record of a run: configuration, code, environment, model."""
