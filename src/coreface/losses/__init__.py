"""Losses: margin-softmax over class centres, and the contrastive regularisation between images."""
