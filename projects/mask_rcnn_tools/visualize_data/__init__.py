"""Pictures of what a loader feeds to a model."""
