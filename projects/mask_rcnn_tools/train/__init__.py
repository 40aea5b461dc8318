"""The command behind `train_net.py`."""
