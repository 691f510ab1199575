"""What griffe is told of our docstrings: an extension, named in mkdocs.yml."""

import re

import griffe

# Not indented, so no section of Google style, but Markdown of its own.
_EXAMPLE = re.compile(r"^(Examples?):$", re.M)
_PROMPTS = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.M | re.S)
# `keras_freetickets.sparsify`, or the bare name of a class, such as `Method`.
_NAME = re.compile(r"(?<![\[`])`(keras_freetickets\.[\w.]+|[A-Z]\w+)`(?!`)")
# "a, b: As for `Other`." in "Args", which griffe would take for one name.
_SEVERAL = re.compile(
    r"^( +)(\*{0,2}\w+(?:, \*{0,2}\w+)+):(?=\s+As\s)(.*(?:\n\1 +.*)*)", re.M
)


def _one_by_one(found):
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}:{text}" for name in names.split(", "))


class Docstrings(griffe.Extension):
    """Shows examples as code, and links names of the package."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is None:
            return

        def link(found):
            name = found.group(1)
            try:
                path = name if "." in name else obj.module.resolve(name)
            except griffe.NameResolutionError:
                return found.group()
            # Optional: not all names have an entry.
            return (
                f'<autoref identifier="{path}" optional>'
                f"<code>{name}</code></autoref>"
            )

        text = _EXAMPLE.sub(r"**\1**", obj.docstring.value)
        text = _PROMPTS.sub(r"```pycon\n\g<0>\n```", text)
        text = _SEVERAL.sub(_one_by_one, text)
        obj.docstring.value = _NAME.sub(link, text)
