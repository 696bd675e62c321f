"""From a request to finished runs: launcher, scheduler, jobs, leases, memory budget, progress and status."""
