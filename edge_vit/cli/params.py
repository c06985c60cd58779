"""Arguments and options that several commands share: one name and one meaning everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from edge_vit.data.bad_images import DEFAULT_MAX_BAD, FEW_IMAGES, parse_max_bad
from edge_vit.data.registry import image_forms
from edge_vit.errors import SpecError
from edge_vit.files import refuse_unwritable, refuse_unwritable_folder
from edge_vit.formats import all_formats, names_of
from edge_vit.optional import refuse_missing
from edge_vit.plugins import Registry
from edge_vit.runtime.backends import BACKENDS
from edge_vit.runtime.options import (
    DEGRADED_STATUS,
    FALLBACKS,
    PROVIDERS,
    SessionOptions,
    Wait,
    collect_degraded,
)
from edge_vit.spec.table import DEFAULT_RECIPE, RECIPES

PATH = click.Path(path_type=Path)
POSITIVE, NOT_NEGATIVE = click.IntRange(min=1), click.IntRange(min=0)
ABOVE_0, AT_LEAST_0 = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0)


class Names(click.ParamType):  # type: ignore[type-arg]  # click 8.1 takes none
    """A name of `registry`, or one of `others`.

    Plug-ins are looked for when help or another name asks for them.
    """

    name = "name"

    def __init__(self, registry: Registry[Any], *others: str) -> None:
        self._registry, self._others = registry, others

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the names, as click shows choices."""
        return f"[{'|'.join([*self._others, *self._registry])}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return `value`, or refuse it as click does."""
        if value not in self._others and value not in self._registry:
            known = ", ".join(map(repr, [*self._others, *self._registry]))
            self.fail(f"{value!r} is not one of {known}.", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin with `incomplete`."""
        names = [*self._others, *self._registry]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Parsed(click.ParamType):  # type: ignore[type-arg]  # click 8.1 takes none
    """The value that `parse` returns for a text; its ValueError is a usage error.

    `name` is the form of the text in help and messages.
    """

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text; what is a value already stays as it is."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except SpecError as error:
            return self.fail(str(error), param, ctx)
        except ValueError:
            return self.fail(f"{value!r} is not of the form {self.name}", param, ctx)


def writable_folder(text: str) -> Path:
    """Return a path, refused where no files can be written into it."""
    refuse_unwritable_folder(Path(text))
    return Path(text)


class OutputFile(click.ParamType):  # type: ignore[type-arg]  # click 8.1 takes none
    """The path of a file that can be written, which is checked when the command line is read.

    The name may end in any of `suffixes`, or in anything where there are none; `html_needs` are
    modules that a page is made with.
    """

    name = "file"

    def __init__(self, *suffixes: str, html_needs: tuple[str, ...] = ()) -> None:
        self._suffixes, self._html_needs = suffixes, html_needs

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return `value` as a path, refused where nothing can be written there."""
        path = Path(str(value))
        if self._suffixes and path.suffix not in self._suffixes:
            *others, last = self._suffixes
            wanted = f"{', '.join(others)} or {last}" if others else last
            option = param.opts[0] if param else "output"
            raise click.UsageError(f"{option} {path}: expected a name that ends in {wanted}")
        refuse_unwritable(path)
        for module in self._html_needs if path.suffix == ".html" else ():
            refuse_missing(module, f"writing {path}")
        return path


ANY_FILE = OutputFile()
REPORT_FILE = OutputFile(".html", ".md", ".json", html_needs=("jinja2", "matplotlib"))
ANY_FOLDER = Parsed("folder", writable_folder)
"""A folder, there or not, that files can be written into."""


def numbers(name: str, kind: type[int] | type[float], counts: tuple[int, ...]) -> Parsed:
    """Return the type of `counts` numbers with commas between them."""

    def parse(text: str) -> tuple[float, ...]:
        found = tuple(kind(part) for part in text.split(","))
        if len(found) not in counts:
            raise ValueError
        return found

    return Parsed(name, parse)


KINDS = {
    **dict.fromkeys(("N", "MIB"), POSITIVE),
    **dict.fromkeys(("S", "RATE", "RATIO"), ABOVE_0),
    **dict.fromkeys(("MS", "PERCENT", "POINTS"), AT_LEAST_0),
    **dict.fromkeys(("DIR", "PATH"), PATH),
}
"""The type of an option's value by its placeholder."""


def option(
    form: str,
    text: str,
    kind: Any = None,
    default: Any = None,
    *,
    name: str = "",
    show_default: bool | None = None,
    **settings: Any,
) -> Decorator:
    """Return a click option, written as ``--help`` shows it.

    `form` has names and placeholder, ``-o, --output FILE``; a flag has no placeholder. `kind` is
    click's type or the choices, or follows from the placeholder where `KINDS` has it. A default is
    shown in the help, unless the option is a pair such as ``--build/--no-build``, or
    `show_default` overrides that. `name` is the parameter's, where it differs from the option's.
    """
    words = form.split()
    flags = [word.rstrip(",") for word in words if word.startswith("-")]
    metavar = " ".join(words[len(flags) :]) or None
    is_pair = "/" in flags[0]
    kind = KINDS.get(metavar or "") if kind is None else kind
    if default is not None:
        settings["show_default"] = not is_pair if show_default is None else show_default
        settings["default"] = default
    elif kind is None and metavar is None:
        settings["is_flag"] = True
    kind = click.Choice(kind) if isinstance(kind, list | tuple) else kind
    names = [*flags, name] if name else flags
    return click.option(*names, metavar=metavar, type=kind, help=text, **settings)


def outputs_option(text: str, kind: OutputFile = ANY_FILE) -> Decorator:
    """Return ``-o FILE``, which may be given several times, as `outputs`."""
    return option("-o, --output FILE", f"{text} Repeatable.", kind, name="outputs", multiple=True)


def output_option(form: str, text: str, kind: click.ParamType[Any]) -> Decorator:
    """Return the required ``-o`` of a command that writes one thing: several are refused."""

    def single(ctx: click.Context, param: click.Parameter, found: tuple[Path, ...]) -> Path | None:
        if len(found) > 1:
            shown = ", ".join(map(str, found))
            raise click.UsageError(f"-o: got {shown}, expected one. Run the command once for each")
        return found[0] if found else None  # while a shell completes a line

    return option(f"-o, --output {form}", text, kind, required=True, multiple=True, callback=single)


bundle_argument = click.argument("bundle", metavar="BUNDLE", type=PATH)
images_argument = click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)

_BACKEND_HELP = (
    "What runs the model; ort is ONNX Runtime. auto takes the fastest that is installed."
)
threads_option = option("--threads N", "CPU threads of one run.  [default: all cores]")
_FLAGS = {
    "threads": threads_option,
    "provider": option("--provider", "What ONNX Runtime computes with.", PROVIDERS, "cpu"),
    "device": option("--device N", "Number of the GPU.", NOT_NEGATIVE, 0),
    "cuda_graph": option(
        "--cuda-graph/--no-cuda-graph",
        "Launch each run of an engine as one CUDA graph.  [default: do]",
        default=True,
    ),
    "may_build": option(
        "--build/--no-build",
        "Build an engine that is missing or stale, or refuse.  [default: build]",
        default=True,
        name="may_build",
    ),
    "trust_engine": option(
        "--trust-engine", "Load an engine that was not built here; it can run code of its maker."
    ),
    "fallback": option(
        "--fallback",
        "What takes over where a GPU cannot run the model; the exit status is then 6.",
        FALLBACKS,
        "none",
    ),
    "self_test": option(
        "--self-test/--no-self-test",
        "Run the golden images on a GPU before its answers count.  [default: do]",
        default=True,
    ),
}
"""What `SessionOptions` holds, by its names."""
precision_option = option(
    "--precision",
    "Which graph to run.  [default: the narrowest that the bundle has]",
    names_of(all_formats()),
)
data_option = option(
    "--data DIR",
    f"Images, with labels for accuracy or without for agreement only. {image_forms()}.",
    PATH,
    required=True,
)
num_images_option = option(
    "--num-images N", "Take this many of the images at most, spread evenly.  [default: all]"
)
max_bad_option = option(
    "--max-bad SHARE",
    "Images that may be left out because they cannot be read: a share, of which 1 of "
    f"{FEW_IMAGES} or more is always within, a number, or 0.",
    Parsed("SHARE", parse_max_bad),
    str(DEFAULT_MAX_BAD),
)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the images that it measures on: `data`, `num_images` and `max_bad`."""
    return data_option(num_images_option(max_bad_option(command)))


recipe_option = option(
    "--recipe", f"How to quantize.  [default: {DEFAULT_RECIPE.name}]", list(RECIPES)
)
lock_timeout_option = option(
    "--lock-timeout SECONDS",
    "How long to wait for another command that writes there.  [default: until it has ended]",
    AT_LEAST_0,
)
json_option = option("--json", "Print the result as JSON, and nothing else.", name="as_json")


def session_options(
    command: Callable[..., None], *, takes_all: bool = False, wait: Wait = "block"
) -> Callable[..., None]:
    """Give `command` the flags of everything that runs a model, as `backend` and `options`.

    A command that did its work on a fallback ends with status 6, unless it ended with another.
    With `takes_all` ``--backend all`` stands for every one that this machine has. `wait` is how it
    waits for a GPU: measuring spins, everything else leaves the core to others.
    """

    @functools.wraps(command)
    def run(*args: Any, **others: Any) -> None:
        options = SessionOptions(wait=wait, **{name: others.pop(name) for name in _FLAGS})
        with collect_degraded() as degraded:
            try:
                command(*args, options=options, **others)
            except click.exceptions.Exit as ending:
                if ending.exit_code:
                    raise
        if degraded:
            raise click.exceptions.Exit(DEGRADED_STATUS)

    backend_option = option(
        "--backend",
        _BACKEND_HELP + (" all takes each that this machine has." if takes_all else ""),
        Names(BACKENDS, "auto", *(["all"] if takes_all else [])),
        "auto",
    )
    decorated: Callable[..., None] = run
    for each in (*reversed(_FLAGS.values()), backend_option):
        decorated = each(decorated)
    return decorated
