"""Training of one view's network, which may be interrupted at any moment."""
