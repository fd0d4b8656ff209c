"""MuJoCo run time: scene bundles, controller, stepping, rendering."""
