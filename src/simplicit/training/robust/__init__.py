"""Training for robustness: layers that move little over a box of inputs."""
