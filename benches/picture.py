"""What the scripts share that draw a picture: an SVG's opening, words in it, its end."""

import html

STYLE = "text{font:12px sans-serif;fill:#444}polyline{fill:none;stroke-width:1.5}.g{stroke:#ddd}"


def opening(width, height, title):
    """The first lines of a picture on white, with a title for those who do not see it."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]


def text(x, y, words, anchor="start", more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(str(words), quote=False)}</text>'


def write(path, svg):
    path.write_text("\n".join([*svg, "</svg>"]) + "\n")
