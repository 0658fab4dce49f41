"""Starts Flower's own SuperNode at a site, configured from the environment, and ends when it no longer does its work.

Not for researchers' code: that runs in another container (``flowerbed_executor``).
"""
