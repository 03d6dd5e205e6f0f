"""The MLX backend. All mlx and mlx_lm imports live in this folder; none happens by importing this file."""

from __future__ import annotations

from mlxtune.backends.mlx.runtime import prepare

prepare()  # before any module beside this one imports mlx
