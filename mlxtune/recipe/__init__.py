"""The recipe: its sections, and how a YAML file becomes one."""
