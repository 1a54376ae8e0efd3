"""Reads HTML pages as a browser does, as far as tests look at them."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Collects tags, attributes, text, and the rows of tables as the texts of their cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(page)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th", "table")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data
