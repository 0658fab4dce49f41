"""Part of flowerbed: flowerbed_cli."""
