"""Researcher code that attacks; see test_isolation.py for what must come of it."""
