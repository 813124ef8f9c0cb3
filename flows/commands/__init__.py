"""The commands of `mixwright`. Heavy modules are imported by the commands that need them."""
