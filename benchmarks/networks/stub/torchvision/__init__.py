"""What timm and facenet-pytorch import from torchvision, and never call here: it has no build for this torch."""
