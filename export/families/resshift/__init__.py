"""ResShift in one step (SinSR, TAD-SR) or its own 15 or 4: a UNet with Swin layers inside a VQ autoencoder."""
