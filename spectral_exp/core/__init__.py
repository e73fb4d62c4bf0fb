"""Files, text and JSON, without any idea of a run."""
