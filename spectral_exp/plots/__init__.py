"""The parts of figures: themes, reduced curves, curves over seeds, rows of intervals.

They take plain NumPy arrays and use the object-oriented part of matplotlib, never pyplot. `series`
and `seeds` load no matplotlib. The figures are in `spectral_exp.results.figures` for comparisons in
print and in `spectral_exp.plots.run` for a running experiment.
"""
