"""What models with logits xW share: closed forms, and a fit to the last digits."""
