"""The losses: margin-softmax over identity centres, and the contrastive regularisation between images."""
