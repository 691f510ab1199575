"""What griffe is told of our docstrings: an extension, named in mkdocs.yml."""

import re

import griffe

# Not indented, so no section of Google style, but Markdown of its own.
_EXAMPLE = re.compile(r"^(Examples?):$", re.M)
_PROMPTS = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.M | re.S)
_NAME = re.compile(r"(?<![\[`])`(keras_freetickets\.[\w.]+)`(?!`)")
# Optional: some names, such as a module's that is not public, have no entry.
_LINK = r'<autoref identifier="\1" optional><code>\1</code></autoref>'


class Docstrings(griffe.Extension):
    """Shows examples as code, and links names of the package."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is None:
            return
        text = _EXAMPLE.sub(r"**\1**", obj.docstring.value)
        text = _PROMPTS.sub(r"```pycon\n\g<0>\n```", text)
        obj.docstring.value = _NAME.sub(_LINK, text)
