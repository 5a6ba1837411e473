"""Recipes: for each training method the loss of a batch and the metrics of an evaluation."""
