"""Distributed training: launch, rendezvous, and computations over several processes."""
