"""Index streams for training and inference, split over processes."""

from .distributed_sampler import (
    InferenceSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)

__all__ = ["InferenceSampler", "RepeatFactorTrainingSampler", "TrainingSampler"]
