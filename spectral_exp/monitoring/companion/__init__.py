"""The companion of a run: a process beside training for mirrors, alerts and system metrics.

Training starts it and otherwise forgets it. It follows the files of the run, so an outage of a
tracker loses nothing: what is missing is sent later, by the next attempt or by `spectral-exp
mirror`.
"""
