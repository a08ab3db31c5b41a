"""Pretraining with nanotron, and conversion to Hugging Face format."""
