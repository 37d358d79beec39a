"""Train one view's network; training can be interrupted and resumed at any time."""
