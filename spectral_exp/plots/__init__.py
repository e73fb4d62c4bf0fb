"""What figures of runs are made of: themes, the reduction of curves, runs of several seeds as one, rows of intervals.

Plain numpy arrays in, drawn with the object-oriented part of matplotlib (never pyplot). `series`, `seeds` and
`metric_info` load no matplotlib. The figures themselves are in `spectral_exp.results.figures` for comparisons in print
and in `spectral_exp.plots.run` for what is watched while a run goes on.
"""
