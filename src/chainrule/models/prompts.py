"""Prompts as text: what no model can read, and what other programs would not read as words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from chainrule.errors import UserError

LONGEST = 20_000
"""How many letters a prompt may have."""
WEIGHT = re.compile(r"\(([^()]*):\s*[-+]?\d*\.?\d+\s*\)")
EXTRA = re.compile(r"<(lora|lyco|hypernet):[^>]*>", re.IGNORECASE)
BREAK = re.compile(r"\bBREAK\b")
SCHEDULE = re.compile(r"\[[^\[\]]*:[^\[\]]*\]")
BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse what is not a prompt, and warn of what is read otherwise than elsewhere.

    Args:
        prompts: The prompts.

    Raises:
        UserError: One is not a text, is too long, or has another program's syntax.
    """
    if not prompts:
        raise UserError("there is no prompt", "give one; an empty text stands for none", "prompt")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise UserError(f"a prompt is a text, not {prompt!r:.60}", "write words", "prompt")
        if len(prompt) > LONGEST:
            cause = f"the prompt has {len(prompt)} letters and may have {LONGEST}"
            raise UserError(cause, f"shorten it ({prompt[:60]!r}...)", "prompt")
        if re.search("[\0\ud800-\udfff]", prompt):
            cause = f"the prompt has what is no letter ({prompt[:60]!r})"
            raise UserError(cause, "omit what cannot be written in UTF-8, and NUL", "prompt")
        _check_syntax(prompt)


def _check_syntax(prompt: str) -> None:
    """Refuse or warn of what other programs do not read as words."""
    cure = "write the words without weights"
    for pattern, what, cured in (
        (EXTRA, "loads a file in other programs", "load it beside the prompt (file:0.8)"),
        (WEIGHT, "is a weight in other programs", cure),
        (SCHEDULE, "changes along the chain in other programs", cure),
        (BREAK, "begins a new chunk in other programs", "omit it"),
    ):
        found = pattern.search(prompt)
        if found:
            raise UserError(f"{found[0][:60]!r} {what}, and is not supported", cured, "prompt")
    found = BRACKETS.search(prompt)
    if found:
        warnings.warn(f"brackets are words here, not weights: {found[0][:60]!r}", stacklevel=4)
