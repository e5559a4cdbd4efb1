"""The bundled world of coloured shapes: a small real text-to-image model, guides and judges.

See `chainrule.scenes.base`.
"""
