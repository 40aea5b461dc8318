"""Records as pages and plots: `RESULTS.md`, its plots, and one HTML page."""
