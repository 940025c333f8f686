"""Looks into images: what a layer holds, what two images differ in, who wrote a file."""
