"""RoI heads: box, mask and keypoint branches on each proposal (figure 4)."""
