"""The colours of all drawings, as 8-bit RGB; `page.css` has the HTML pages' own, light and dark."""

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (24, 28, 36)
GREY: Colour = (104, 112, 126)
PALE: Colour = (226, 229, 234)

AMBER: Colour = (255, 176, 0)
SKY: Colour = (86, 190, 255)
ROSE: Colour = (240, 40, 110)
GREEN: Colour = (22, 128, 78)
OCHRE: Colour = (168, 100, 0)

BLUE: Colour = (44, 127, 184)
ORANGE: Colour = (222, 119, 40)
VIOLET: Colour = (120, 80, 180)
SILVER: Colour = (130, 136, 146)
