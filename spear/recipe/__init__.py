"""Recipes as things that are made, handed on and received."""

from spear.recipe.new import NewRecipe, new_recipe
from spear.recipe.verify import Finding, verify_recipe

__all__ = ["Finding", "NewRecipe", "new_recipe", "verify_recipe"]
