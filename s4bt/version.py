"""The version, once: pyproject.toml reads it from here, too."""

__version__ = "0.9.0"
