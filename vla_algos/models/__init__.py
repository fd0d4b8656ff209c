"""Vision-language-action models; plain torch, no environments."""
