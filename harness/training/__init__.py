"""The training loop: data, optimisation, evaluation and observation of one run, and the record that it publishes."""
