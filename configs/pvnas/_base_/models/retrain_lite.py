# Clips as EfficientNet-Lite was trained on them.
_base_ = "retrain.py"

model = dict(data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]))
