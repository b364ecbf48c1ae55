"""Where in a picture another picture stands: borders, rectangles, quadrilaterals, what was laid over it."""
