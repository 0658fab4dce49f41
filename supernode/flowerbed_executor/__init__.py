"""Starts researchers' ServerApps and ClientApps, each as a user of its own, around Flower's own SuperExec.

Not for app authors: what a task may use of the kit is in ``flowerbed_app``.
"""
