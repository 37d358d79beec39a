"""What the workflow needs to know of its runs: what is finished, what failed, what is left."""
