"""Figures of a run, drawn by a process of their own while training goes on."""
