"""One-step Stable Diffusion (OSEDiff and its like): VAE encoder, UNet, VAE decoder."""
