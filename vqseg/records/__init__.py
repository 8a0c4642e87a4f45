"""The run folder and its index, and the MLflow mirror of them."""
