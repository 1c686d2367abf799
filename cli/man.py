"""``codec man``: the manual page, made of what ``--help`` says."""

import re

import click

from codec import __version__


@click.command()
def man() -> None:
    """Print the manual page.

    \b
    codec man > codec.1
    man -l codec.1
    """
    group = click.get_current_context().parent
    assert group is not None
    click.echo(page(group))


def page(context: click.Context) -> str:
    """The manual page of a group and its commands, in roff; man(7).

    Args:
        context: click.Context of the group.
    """
    group = context.command
    name = context.info_name or ""
    lines = [
        f'.TH {name.upper()} 1 "" "{name} {__version__}" "User Commands"',
        ".SH NAME", f"{name} \\- {_escaped(_sentence(group.help))}",
        ".SH SYNOPSIS", f".B {name}", _escaped(" ".join(group.collect_usage_pieces(context))),
        ".SH DESCRIPTION", *_paragraphs(group.help),
        ".SH OPTIONS", *_options(group, context),
        ".SH COMMANDS", *_commands(context),
    ]  # fmt: skip
    if group.epilog:
        title, _, text = group.epilog.partition(": ")
        lines += [f".SH {title.upper()}", *_paragraphs(text)]
    return "\n".join(lines)


def _commands(parent, prefix=""):
    """Lines of the commands of a group, and of those below them."""
    lines = []
    for name in parent.command.list_commands(parent):
        command = parent.command.get_command(parent, name)
        if command.hidden:
            continue
        title = f"{prefix}{name}"
        with click.Context(command, info_name=name, parent=parent) as context:
            if isinstance(command, click.Group):
                lines += _commands(context, f"{title} ")
                continue
            usage = " ".join(command.collect_usage_pieces(context))
            lines += [f'.SS "{_escaped(f"{title} {usage}")}"', *_paragraphs(command.help), *_options(command, context)]
    return lines


def _options(command, context):
    lines = []
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record:
            lines += [".TP", f".B {_escaped(record[0])}", _escaped(" ".join(record[1].split()))]
    return lines


def _paragraphs(text):
    """Lines of a help text; what click is told not to fill (after \\b) is not filled here either."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", (text or "").strip()):
        literal = paragraph.lstrip().startswith("\b")
        rows = [row.strip() for row in paragraph.replace("\b", "").strip().splitlines()]
        lines += [".PP", *([".nf", *map(_escaped, rows), ".fi"] if literal else [_escaped(" ".join(rows))])]
    return lines


def _sentence(text):
    """The first sentence, without its full stop."""
    return re.split(r"\.\s|\.$|:", (text or "").strip(), maxsplit=1)[0].strip()


def _escaped(text):
    """Text that roff takes as it stands."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
