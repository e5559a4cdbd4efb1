"""The mathematics of one sampling chain: it knows no checkpoint, no loss and no picture."""
