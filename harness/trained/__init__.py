"""Models that finished runs have kept: found, loaded, used and exported."""
