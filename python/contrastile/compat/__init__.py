"""Losses with other packages' names, arguments and values: change one import, keep the training script.

One module for each package: ``from contrastile.compat.open_clip import ClipLoss``. docs/dropins has a page for each.
Nothing is imported before it is asked for; a module imports its package only where it extends that package's classes.
"""
