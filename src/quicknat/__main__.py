"""``python -m quicknat``."""

from quicknat.cli import main

main()
