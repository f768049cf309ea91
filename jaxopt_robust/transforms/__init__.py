"""Links of optax chains."""

from jaxopt_robust.transforms.proximal import ProximalState, apply_updates_projected, proximal

__all__ = ["ProximalState", "apply_updates_projected", "proximal"]
