"""Benches against physical limits and other tools: `spectral-exp bench`.

A bench is a module with `run(options)`, which yields sections of measured lines, and an entry of
`BENCHES` in `__main__.py`.
"""
