"""Mixes: recipe, plan, selection and the manifest that trainers verify."""
