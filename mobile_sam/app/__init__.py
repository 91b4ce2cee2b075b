"""A web page on which one clicks on an image and sees the masks of several models side by side."""
