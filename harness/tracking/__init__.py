"""Curves and results of runs for TensorBoard, Weights & Biases, MLflow and as CSV, made from the runs' event logs."""
