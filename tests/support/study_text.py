"""A study of the toy network, and its base recipe, as text that tests vary."""

BASE = """
model: {{backbone: {backbone}, embedding_size: 16}}
data: {{train: {faces}, image_size: 16, workers: 0, holdout: 10}}
stages: [{{from_epoch: 1, views: 1, dropout: 0.1}}]
optimizer: {{lr: 0.02, batch_size: 12, epochs: 3, schedule: cosine}}
evaluation: {{every: 3}}
precision: float32
device: cpu
threads: 1
log_every: 1
"""
STUDY = """
base: base.yaml
shared_until: 1
arms:
  plain: {stages: [{from_epoch: 2, views: 1, dropout: 0.2}]}
  twin: {stages: [{from_epoch: 2, views: 1, dropout: 0.2}]}
  coreface: {stages: [{from_epoch: 2, views: 2, dropout: 0.2, contrastive: {weight: 0.5}}]}
contrasts: [[twin, plain], [coreface, plain]]
primary: {faces: held_out, measure: eer}
measure: {faces: [held_out], fars: [0.1], replicates: 100}
seeds: [1, 2]
"""
