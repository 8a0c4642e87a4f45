"""The ablation bench for semi-supervised medical image segmentation with vector-quantized tokens."""

__version__ = "0.2.0"
