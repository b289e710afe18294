"""Genie: a world model of video with latent actions (Bruce et al. 2024, arXiv 2402.15391)."""
