"""What records show: rows and claims of the paper, verdicts, power, and plans of seeds."""
