"""Part of flowerbed: flowerbed_superlink."""
