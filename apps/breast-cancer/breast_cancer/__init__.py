"""Flower app: malignant or benign, from 30 features of a fine needle aspirate, under differential privacy.

Modules that need torch or Opacus import them when they train; the ServerApp and the checks run without.
"""
