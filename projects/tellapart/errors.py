"""The error that stands for bad input: `train_net.py` prints its message, no traceback, and exits with code 2."""


class InputError(ValueError):
    """What the user gave (a file, a key, a data set, a checkpoint) is missing, broken or contradicts something else."""
