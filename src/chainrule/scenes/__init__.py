"""The bundled world: a small real text-to-image model, its guides and its judges.

See `chainrule.scenes.base`.
"""
