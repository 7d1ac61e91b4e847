"""Recipes as things that are made, handed on and received."""

from spear.recipe.new import NewRecipe, new_recipe
from spear.recipe.pack import Packed, PackSettings, pack_recipe
from spear.recipe.unpack import unpack_recipe
from spear.recipe.verify import Finding, verify_recipe

__all__ = ["Finding", "NewRecipe", "PackSettings", "Packed", "new_recipe", "pack_recipe", "unpack_recipe"]
__all__ += ["verify_recipe"]
