"""Part of flowerbed: flowerbed_ca."""
