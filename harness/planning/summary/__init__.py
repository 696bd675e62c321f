"""What a plan is summed up in: the manifest for reports, remarks for the user, the seeds that a difference would need."""
