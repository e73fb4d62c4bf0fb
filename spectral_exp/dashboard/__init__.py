"""A local web page on folders of runs: the server, which reads run directories only.

It knows runs through `runs` and `results`, and loads neither torch nor matplotlib; figures are
drawn in a helper process.
"""
