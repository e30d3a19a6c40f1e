"""PruningTrainer: one training, a ladder of models from dense to sparse."""
