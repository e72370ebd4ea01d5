"""Other people's modules: whatever PyTorch allows is counted and timed."""
