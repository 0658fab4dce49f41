"""What all tests share: no deadline for single hypothesis examples, because a busy host is not a bug."""

from hypothesis import settings

settings.register_profile("kit", deadline=None)
settings.load_profile("kit")
