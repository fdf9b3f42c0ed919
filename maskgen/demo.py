"""Where scripts of version 0.1 find the shipped small models; new ones use `maskgen.small_models`."""

from maskgen.small_models import checkpoint

__all__ = ["checkpoint"]
