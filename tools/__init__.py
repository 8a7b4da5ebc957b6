"""Housekeeping behind the Makefile; nothing of s4bt imports it. Run as python -m tools.<name>."""
