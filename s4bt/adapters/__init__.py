"""Layers of other people: LRU, S5 and S4D, to systems and back, one by one or in a whole model.

kinds    an adapter for each kind, by the names that its parameters have in public code
models   whole models: what their layers receive, and the smaller model
"""

from s4bt.lazy import attach

_HOMES = {
    "kinds": ["LRU", "S4D", "S5", "Adapter", "adapter_of", "reduce_state", "reduce_any"],
    "models": ["compress_layers", "cross_spectrum", "received"],
}
__getattr__, __dir__, __all__ = attach(
    __name__, {name: f"s4bt.adapters.{file}" for file, names in _HOMES.items() for name in names}
)
