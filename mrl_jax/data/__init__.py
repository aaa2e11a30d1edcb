"""The input side: datasets by name, image transforms, and batches whose order is a function of (seed, step).

No module here imports TensorFlow, and none touches an accelerator: batches are numpy arrays.
"""
