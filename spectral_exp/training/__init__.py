"""The training loop of a run and what it needs: settings, state, evaluation, progress, seeding."""
