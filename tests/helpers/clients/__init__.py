"""Short clients that make the calls of public programs, whichever of both packages they import.

Each has `run(weights, image)`: a file of original weights of `vit_t`, and pixels (H, W, 3) RGB.
Nothing here may know which of the two packages it imports. docs/drop_in.md names the programs.
"""
