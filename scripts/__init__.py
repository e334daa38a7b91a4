"""The paper's experiments, one file each."""

import os

from influence_command import held_back

# TensorFlow's start-up messages would bury the tables; this must be said before it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On processors without neural-network instructions TensorFlow leaves oneDNN off, and convolutions
# take three times as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Some of these messages come before any level applies, others when it first looks for devices.
with held_back():
    import tensorflow as tf

    tf.config.list_physical_devices()
