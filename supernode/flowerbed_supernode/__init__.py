"""Part of flowerbed: flowerbed_supernode."""
