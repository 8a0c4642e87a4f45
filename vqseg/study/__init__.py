"""Studies: cells (arm, seed) -> a queue -> worker processes. Only `vqseg.study.queue` imports optuna."""
