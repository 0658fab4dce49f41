"""Part of flowerbed: flowerbed_executor."""
