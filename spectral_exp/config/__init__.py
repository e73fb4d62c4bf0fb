"""From a configuration to objects: the command line, built runs, loaded models."""
