"""Prediction on images, videos and cameras with a trained model: pictures and COCO json."""
