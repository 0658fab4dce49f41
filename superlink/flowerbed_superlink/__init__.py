"""Flower's SuperLink for a consortium: PostgreSQL state, a deny-by-default gate, results that outlive a run.

Everything here reaches Flower through its own extension hooks (`flwr.ee`) and one launcher around its entry point; no
Flower file is changed. It is not for sites or tasks: those are `flowerbed_supernode` and `flowerbed_executor`.
"""
