"""Part of flowerbed: flowerbed_topology."""
