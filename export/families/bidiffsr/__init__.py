"""BI-DiffSR: a binary UNet in pixel space, any number of DDIM steps."""
