"""Part of flowerbed: flowerbed_app."""
