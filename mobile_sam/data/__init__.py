"""Images and masks: their index, and what training and validation read of them."""
