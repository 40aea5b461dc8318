"""Error analysis of detectors: error types, confusions, masks, scores, keypoints."""
