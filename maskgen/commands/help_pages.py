"""What `--help` prints: commands in groups, options with a word for their value instead of a type."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

FORMER_NAMES = frozenset({"--to"})
"""Names that options had before; they are understood and not shown."""

_METAVARS = {int: "N", float: "X", str: "TEXT", list[str]: "TEXT", list[int]: "N"}


class GroupHelp(TyperGroup):
    """The commands by their panel, each with the first paragraph of its help, whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel, in the order of the commands."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                summary = " ".join((command.help or "").split("\n\n")[0].split())
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                panels.setdefault(panel, []).append((name, summary.rstrip(".")))
        widest = max(len(name) for name in self.commands)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in rows])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands first: they are what one looks for."""
        self.format_commands(ctx, formatter)
        _format_options(self, ctx, formatter)


class CommandHelp(TyperCommand):
    """A command whose options are shown with a word for their value and their default."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        _format_options(self, ctx, formatter)


def _format_options(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        if not parameter.hidden:
            section = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections[section].append((_name(parameter), _words(parameter)))
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows, col_max=26)


def _name(parameter: Any) -> str:
    """ "-o, --out FOLDER"."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    names = sorted((name for name in parameter.opts if name not in FORMER_NAMES), key=len) or parameter.opts
    shown = ", ".join(names) + "".join(f" / {name}" for name in parameter.secondary_opts)
    if parameter.is_flag:
        return shown
    return f"{shown} {parameter.metavar or _METAVARS.get(parameter.type_descriptor.annotation, 'VALUE')}"


def _words(parameter: Any) -> str:
    """The explanation, with the default where it does not tell it itself."""
    words, default = parameter.help or "", parameter.default
    if parameter.required:
        return f"{words} [required]"
    tells = default is None or default is False or default == "" or default == [] or "efault" in words
    if tells:
        return words
    if default is True:
        default = parameter.opts[0]
    return f"{words} [default: {','.join(default) if isinstance(default, list) else default}]"
