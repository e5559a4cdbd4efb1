"""Memory: measured, planned, and arranged while a plan lasts."""

from chainrule.memory._arrange import Guests, arrange
from chainrule.memory.measure import (
    LiveBytes,
    Peak,
    begin_phase,
    count_bytes,
    distinct_modules,
    format_bytes,
    is_out_of_memory,
    measure_memory,
    parse_bytes,
    told_out_of_memory,
)
from chainrule.memory.plan import Plan

__all__ = [
    "Guests",
    "LiveBytes",
    "Peak",
    "Plan",
    "arrange",
    "begin_phase",
    "count_bytes",
    "distinct_modules",
    "format_bytes",
    "is_out_of_memory",
    "measure_memory",
    "parse_bytes",
    "told_out_of_memory",
]
