"""The healthy zoo: real networks, losses, optimizers and loops that look ill and are not. The doctor may not accuse one of them."""
