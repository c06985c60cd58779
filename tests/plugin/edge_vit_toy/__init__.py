"""What a plug-in of edge-vit can be, as small as it gets."""
