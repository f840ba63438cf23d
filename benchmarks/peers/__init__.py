"""What the fleet is compared with: the same predictions on other stacks, written as their users would write them."""
