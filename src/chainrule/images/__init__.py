"""Images, in and out: photos, masks, contact sheets and charts. Pillow only."""

from chainrule.images._contact_sheet import contact_sheet, shorten
from chainrule.images.charts import chart, loss_curves
from chainrule.images.masks import colour_mask, load_mask, read_mask, shrink_mask
from chainrule.images.opening import open_picture
from chainrule.images.putting_back import put_back, restore_alpha
from chainrule.images.reading import from_pil, load_picture, on_white, read_picture, to_pil
from chainrule.images.resizing import crop, fit, resize, resize_like, restore_proportions

__all__ = [
    "chart",
    "colour_mask",
    "contact_sheet",
    "crop",
    "fit",
    "from_pil",
    "load_mask",
    "load_picture",
    "loss_curves",
    "on_white",
    "open_picture",
    "put_back",
    "read_mask",
    "read_picture",
    "resize",
    "resize_like",
    "restore_alpha",
    "restore_proportions",
    "shorten",
    "shrink_mask",
    "to_pil",
]
