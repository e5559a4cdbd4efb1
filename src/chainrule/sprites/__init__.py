"""The world of sprites: a small text-to-image model of real artwork, its guides and its judges.

See `chainrule.sprites.base`.
"""
