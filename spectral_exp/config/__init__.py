"""From a configuration to objects: command line, construction, building, loading of trained models."""
