"""Training on several processes: the only part of the package that imports torch.distributed."""

from spectral_exp.distributed.settings import DistributedSettings as DistributedSettings
