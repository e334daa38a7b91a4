"""The paper's experiments, one file each."""

import os

# TensorFlow's start-up messages would bury the tables; this must be said before it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On processors without neural-network instructions TensorFlow leaves oneDNN off, and convolutions
# take three times as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
