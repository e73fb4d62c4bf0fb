"""Checkpoints: saving in the background, durable files, retention, loading."""
