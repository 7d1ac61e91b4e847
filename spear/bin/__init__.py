"""Commands: one module each, `main(argv)` only; `spear <command>` runs them."""
