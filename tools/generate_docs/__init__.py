"""Generated documentation: what would otherwise be typed by hand and drift from the code.

`python tools/generate_docs` writes these files. `--check` writes nothing and names stale ones:

| file | made from |
|---|---|
| configs/README.md | the configs, their differences, paper/tables.json |
| docs/images/architecture.svg | the imports, the layers in pyproject.toml |
| docs/train_keys.md | the schema of the `train` section |
| docs/records.md | the schema of result records |
| docs/performance.md and its plots | records of benchmarks |
| RESULTS.md and its plots in docs/report/ | records below results/, the paper's tables and claims |
| README.md, between two marks | the same |
| results/README.md | records below results/ |
"""
