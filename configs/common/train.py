"""Run settings of the paper's recipe (section 3.1). Every other key of `train` has its default in
`mask_rcnn_repro/config/schema.py`, where all of them are documented.
"""

train = dict(
    max_iter=160_000,
    reference_batch_size=16,
    checkpointer=dict(period=5000),
    eval_period=40_000,
)
