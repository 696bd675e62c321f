"""From suites to runs: settings, compatibility checks, run specs, and preparation of data and weights."""
