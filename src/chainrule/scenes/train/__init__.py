"""How the bundled world is trained: `python -m chainrule.scenes.train`."""
