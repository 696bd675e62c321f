"""The conformance kit: requirements that every method must meet, and the command ``check``."""
