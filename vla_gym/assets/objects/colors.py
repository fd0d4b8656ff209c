"""Colours of the primitive pack's objects."""

from __future__ import annotations

from vla_gym.assets.shapes import Rgba

BLACK: Rgba = (0.05, 0.05, 0.06, 1)
CHARCOAL: Rgba = (0.16, 0.16, 0.17, 1)
GRAPHITE: Rgba = (0.3, 0.3, 0.32, 1)
STEEL: Rgba = (0.62, 0.63, 0.65, 1)
SILVER: Rgba = (0.9, 0.9, 0.92, 1)
WHITE: Rgba = (0.95, 0.95, 0.93, 1)
RED: Rgba = (0.75, 0.12, 0.1, 1)
BLUE: Rgba = (0.12, 0.22, 0.62, 1)
BOTTLE_GREEN: Rgba = (0.03, 0.2, 0.07, 1)
LIGHT_WOOD: Rgba = (0.72, 0.53, 0.33, 1)
MAHOGANY: Rgba = (0.4, 0.12, 0.07, 1)
BROWN: Rgba = (0.27, 0.16, 0.09, 1)
LIGHT_BROWN: Rgba = (0.42, 0.27, 0.15, 1)
SAND: Rgba = (0.8, 0.68, 0.47, 1)
STRAW: Rgba = (0.66, 0.5, 0.28, 1)
IVORY: Rgba = (0.88, 0.86, 0.8, 1)
GLASS: Rgba = (0.2, 0.22, 0.25, 0.45)
CREAM: Rgba = (0.93, 0.88, 0.74, 1)
YELLOW: Rgba = (0.95, 0.75, 0.1, 1)
ORANGE: Rgba = (0.95, 0.48, 0.05, 1)
TOMATO: Rgba = (0.88, 0.2, 0.06, 1)
MAROON: Rgba = (0.3, 0.06, 0.04, 1)
PINK: Rgba = (0.88, 0.35, 0.5, 1)
LEAF_GREEN: Rgba = (0.13, 0.5, 0.16, 1)
OLIVE: Rgba = (0.6, 0.62, 0.2, 1)
CHOCOLATE: Rgba = (0.3, 0.15, 0.08, 1)
PORCELAIN: Rgba = (0.8, 0.82, 0.86, 1)
