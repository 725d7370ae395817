"""Training and evaluation: trainer, hooks, checkpoints, process launch, config checks and a runner for several jobs."""
