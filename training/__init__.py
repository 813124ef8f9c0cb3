"""Manifests in, checkpoints out: training and evaluation of small models, on plain torch and transformers."""

import os

# Read by OpenMP when torch is loaded. Threads that spin while they wait halve the speed of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
