"""Families of checkpoints: one file each, which says how its diffusers pipeline is a Model."""

from chainrule.models.families.registry import FAMILIES, Adapter

__all__ = ["FAMILIES", "Adapter"]
