"""Commands around training: train, predict, visualize, analyze, export, check, tables, report."""
