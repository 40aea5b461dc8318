"""What both data sets are drawn with: textures, outlines, solids, things and persons."""
