"""From a model and a target to a verified artifact. Start reading at `pipeline.py`."""
