"""Prediction: one image or many, whole or in tiles, and files of the results."""
