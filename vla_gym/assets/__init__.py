"""Find and download asset packs; the built-in primitive pack."""
