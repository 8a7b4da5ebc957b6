"""The S4 model with DSS layers.

convolution   causal convolution by FFT or in chunks, forward and backward
dss           the DSS layer
norms         batch and layer norm over (B, H, L)
s4            blocks and the classifier
storage       models as safetensors
"""

from s4bt.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "DSS": "s4bt.nn.dss",
        "S4Model": "s4bt.nn.s4",
        "load_model": "s4bt.nn.storage",
        "save_model": "s4bt.nn.storage",
    },
)
