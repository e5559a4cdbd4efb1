"""How the world of sprites is trained: `python -m chainrule.sprites.train`."""
