"""The ablation bench for semi-supervised medical image segmentation with vector-quantized tokens."""

__version__ = "0.1.0"
