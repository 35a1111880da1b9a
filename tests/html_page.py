# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Reading HTML pages that the package writes."""
import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np

_VOID = ('meta', 'img', 'input', 'link', 'br')
_NO_TEXT = ('style', 'script')


class Page(HTMLParser):
    """A page whose tags must be balanced.

    Attributes:
        tags: (name, attributes), in order.
        text: What is read, without styles and scripts.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding='utf-8')
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = ' '.join(' '.join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert len(dict(attrs)) == len(attrs), attrs
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in _NO_TEXT:
            self.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict]:
        """Attributes of all tags of a name that have these, too."""
        return [
            attrs for name, attrs in self.tags if name == tag and
            attributes.items() <= attrs.items()
        ]


def check_page(page: Page) -> None:
    """Nothing comes from elsewhere, links lead somewhere, all is labelled."""
    for _, attrs in page.tags:
        for key in ('src', 'href'):
            value = attrs.get(key, '#')
            assert value.startswith(('#', 'data:image/')), value[:80]
    source = re.sub(r'data:image/jpeg;base64,[\w+/=]+', '', page.source)
    assert not re.search(r'//\w|url\(|@import|fetch\(', source)
    ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
    assert len(ids) == len(set(ids))
    for link in page.all('a'):
        assert link['href'][1:] in ids
    for _, attrs in page.tags:
        for name in attrs.get('aria-labelledby', '').split():
            assert name in ids
    assert all(image['alt'] for image in page.all('img'))
    assert all(control['aria-label'] for control in page.all('input'))
    assert all(area['aria-label'] for area in page.all('div', tabindex='0'))
    assert page.all('html', lang='en') and page.all('meta', name='viewport')


def picture(uri: str) -> np.ndarray:
    """(H, W, 3), RGB, of a data URI."""
    data = base64.b64decode(uri.partition('base64,')[2], validate=True)
    return cv2.imdecode(np.frombuffer(data, np.uint8),
                        cv2.IMREAD_COLOR)[..., ::-1]
