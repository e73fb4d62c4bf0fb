"""The record of what was run: configuration, code, environment, model."""
