"""Networks of stages of equal blocks: ResNeXt-A and -B, ResNet, Vanilla."""
