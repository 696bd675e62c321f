"""Timing of reports and of large results folders: the commands ``bench report`` and ``bench store``."""
