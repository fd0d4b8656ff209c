"""MuJoCo run time: controller, stepping, rendering."""
