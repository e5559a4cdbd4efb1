"""Checkpoints: `load()` makes a Model of one."""

from chainrule.models._extras import parse_embedding, parse_lora
from chainrule.models._load import BUNDLED, installed, load
from chainrule.models.base import (
    ClassifierFreeGuidance,
    Codec,
    DistilledGuidance,
    Guidance,
    Model,
    NoGuidance,
    Text,
)
from chainrule.models.families import FAMILIES, Adapter

__all__ = [
    "BUNDLED",
    "FAMILIES",
    "Adapter",
    "ClassifierFreeGuidance",
    "Codec",
    "DistilledGuidance",
    "Guidance",
    "Model",
    "NoGuidance",
    "Text",
    "installed",
    "load",
    "parse_embedding",
    "parse_lora",
]
