"""Our figures beside physical limits and the peers', in one run: `python -m spectral_exp.bench`.

A bench is a module with `run(options)`, which yields sections of measured lines, and a line in the table of
`__main__.py`.
"""
