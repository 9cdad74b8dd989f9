"""template: the pages and pictures of catdog/pages, into which nothing is written unescaped, and nothing left out silently."""

from functools import cache

import jinja2

from catdog.labels import shown


@cache
def template(name: str) -> jinja2.Template:
    """The template of that file name; its filter `plain` makes strangers' text visible."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("catdog", "pages"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = shown
    return environment.get_template(name)
