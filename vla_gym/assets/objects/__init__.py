"""
Tables of the objects and fixtures of the primitive pack: relative file name -> shapes.

Names, sites, joints, masses and outer dimensions are LIBERO's (https://github.com/Lifelong-Robot-Learning/LIBERO), so
that its scene builder, initial states and goal predicates apply; the shapes are our own.
"""

from __future__ import annotations

from vla_gym.assets.objects.appliances import APPLIANCES
from vla_gym.assets.objects.books import BOOKS
from vla_gym.assets.objects.bottles import BOTTLES
from vla_gym.assets.objects.containers import CONTAINERS
from vla_gym.assets.objects.cookware import COOKWARE
from vla_gym.assets.objects.furniture import FURNITURE
from vla_gym.assets.objects.groceries import GROCERIES
from vla_gym.assets.objects.mugs import MUGS
from vla_gym.assets.objects.tableware import TABLEWARE
from vla_gym.assets.shapes import Asset

OBJECTS: dict[str, Asset] = {
    **APPLIANCES,
    **BOOKS,
    **BOTTLES,
    **CONTAINERS,
    **COOKWARE,
    **FURNITURE,
    **GROCERIES,
    **MUGS,
    **TABLEWARE,
}
