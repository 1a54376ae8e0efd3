"""What an answer cost: tokens, operations, seconds and bytes."""
