"""A Flower app that trains nothing."""
