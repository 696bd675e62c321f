"""A leaderboard of several results folders: a static site with a page for each method and benchmark, and all results as JSON."""
