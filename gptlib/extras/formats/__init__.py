"""Other people's files: TensorFlow checkpoints, hub downloads, sharded and foreign folders.

`gptlib.extras.models.load_model` opens them all.
"""
