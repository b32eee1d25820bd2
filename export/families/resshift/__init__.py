"""ResShift in one step (SinSR, TAD-SR): a UNet with Swin layers between the halves of a VQ autoencoder."""
