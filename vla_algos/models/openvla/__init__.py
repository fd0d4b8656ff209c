"""The Prismatic / OpenVLA architecture at any size."""
