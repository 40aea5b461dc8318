"""COCO json files."""
