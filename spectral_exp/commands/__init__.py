"""The commands of `spectral-exp`: one file each, argument parsing and printing only."""
