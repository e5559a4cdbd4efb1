"""Recognition networks are loaded in silence, which ends where it began."""

from __future__ import annotations

import pytest
from transformers.utils import logging

from chainrule.losses import load_backbone, load_clip
from chainrule.vision import quiet_transformers


def test_loading_a_bundled_network_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load_clip()
    load_backbone()  # a classifier without its head, which transformers would report
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bars", [False, True])
def test_the_silence_ends(bars: bool) -> None:
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        with quiet_transformers(bars=bars):
            assert logging.get_verbosity() == logging.ERROR
            assert logging.is_progress_bar_enabled() == bars
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()
