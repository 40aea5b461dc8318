"""Learning rate over the iterations, as multiples of `optimizer.lr`; all drops are by 10.

`max_iter` follows `train.max_iter`, so that the two cannot drift apart.
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.engine.train.schedule import StepSchedule

# Section 3.1: 160k iterations, divided by 10 at 120k. The warm-up is Detectron's (500 iterations
# from a third), the paper states none; Detectron2's is 1000 iterations from a thousandth.
lr_multiplier_160k = L(StepSchedule)(
    max_iter="${train.max_iter}",
    milestones=[120_000],
    warmup_iters=500,
    warmup_factor=1 / 3,
)

# Section 5, keypoints: 90k iterations, divided by 10 at 60k and 80k.
lr_multiplier_90k = L(StepSchedule)(
    max_iter="${train.max_iter}",
    milestones=[60_000, 80_000],
    warmup_iters=500,
    warmup_factor=1 / 3,
)

# Appendix A, Cityscapes: 24k iterations, 0.001 instead of 0.01 from 18k on.
lr_multiplier_24k = L(StepSchedule)(
    max_iter="${train.max_iter}",
    milestones=[18_000],
    warmup_iters=500,
    warmup_factor=1 / 3,
)

# Table 8, updated baseline: 180k iterations, divided by 10 at 120k and 160k.
lr_multiplier_180k = L(StepSchedule)(
    max_iter="${train.max_iter}",
    milestones=[120_000, 160_000],
    warmup_iters=500,
    warmup_factor=1 / 3,
)

# Table 8, with scale augmentation: 260k iterations, divided by 10 at 200k and 240k.
lr_multiplier_260k = L(StepSchedule)(
    max_iter="${train.max_iter}",
    milestones=[200_000, 240_000],
    warmup_iters=500,
    warmup_factor=1 / 3,
)

# Table 9, updated baseline: 130k iterations, divided by 10 at 100k and 120k.
lr_multiplier_130k = L(StepSchedule)(
    max_iter="${train.max_iter}",
    milestones=[100_000, 120_000],
    warmup_iters=500,
    warmup_factor=1 / 3,
)
