"""mlc: an ahead-of-time compiler for training."""
