"""The figures: plain numpy arrays in, a matplotlib `Figure` out.

The arrays are taken out of histories, models and run directories by `histories`, `internals` and `runs`. The drawing
modules import matplotlib (its object-oriented part, never pyplot); these three and `series` do not, nor torch.
"""
