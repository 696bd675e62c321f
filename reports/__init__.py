"""Turns stored records into tables, figures and pages. Nothing here trains, and nothing here imports torch."""
