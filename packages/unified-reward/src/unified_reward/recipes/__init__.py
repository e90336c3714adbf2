"""Recipes: YAML files whose stages `unified-reward run` runs."""
