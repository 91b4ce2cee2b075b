"""Web page that shows the masks of several models for the same prompt, side by side."""
