"""Training on several processes: the only part of the package that imports torch.distributed."""
