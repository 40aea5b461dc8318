"""What a detector gets wrong: error types, confusions, masks, boundaries, scores, keypoints."""
