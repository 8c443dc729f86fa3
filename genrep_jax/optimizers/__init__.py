"""What turns gradients into updates of the weights."""
