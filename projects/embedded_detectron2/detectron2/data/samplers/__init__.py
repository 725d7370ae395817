"""Samplers for training and inference, split over processes."""
# ruff: noqa: F401 (re-exports)

from .distributed_sampler import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
