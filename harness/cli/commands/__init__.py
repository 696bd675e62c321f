"""The commands, found by the decorator ``command``; ``run`` is in ``run_all.py``, ``report`` in ``reports/cli.py``."""
