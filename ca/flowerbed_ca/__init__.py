"""The project-local certificate authority: a store in easy-rsa 3's layout, filled from the federation's plan.

Not for: deciding which certificates a federation needs beyond the table in docs/contracts.md, and not for carrying
files into containers; `flowerbed_cli` does that.
"""
