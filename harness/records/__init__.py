"""The results folder: records, manifests, observations and event logs, and the migration of older records."""
