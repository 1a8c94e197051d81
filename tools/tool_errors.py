# SPDX-License-Identifier: Apache-2.0
"""How the tools end: one line for the user and a documented exit code, never a traceback. Standard library only."""
import contextlib
import errno
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator

EXIT_DATA, EXIT_IO, EXIT_NO_SPACE, EXIT_CONFIG = 65, 70, 75, 78


class ToolError(Exception):
    """One clear line: which file, what is wrong, what to do; and the exit code that goes with it."""

    def __init__(self, text: str, code: int = EXIT_DATA) -> None:
        super().__init__(text)
        self.code = code


def plain(text: str) -> str:
    """Returns `text` for a terminal: control characters, which could be commands to it, are written out."""
    return "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in text)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns whatever goes wrong with what `path` holds into one ToolError that names it."""
    try:
        yield
    except ToolError:
        raise
    except UnicodeDecodeError as error:
        raise ToolError(f"{path}: it is not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ToolError(f"{path}: nested too deeply") from error
    except KeyError as error:
        raise ToolError(f"{path}: {error} is missing in it") from error
    except MemoryError as error:
        raise ToolError(f"{path}: it names more than the memory holds") from error
    except Exception as error:  # a type, a shape or a value that the writer never makes
        raise ToolError(f"{path}: it is not as neuronmoe writes it ({error or type(error).__name__})") from error


def need_packages(tool: str, *names: str) -> None:
    """Ends the tool with one line unless this Python has all of these packages; called before they are imported."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{tool}: {sys.executable} has no {', '.join(missing)}; install them with pip in a virtual environment and start this with "
              "its python", file=sys.stderr)
        sys.exit(EXIT_CONFIG)


def exit_code_of(tool: str, work: Callable[[], int | None]) -> int:
    """Runs a tool's work and returns its exit code (0 for None); an error becomes one line on standard error.

    NMOE_TRACEBACK=1 shows where an error that nobody foresaw comes from.
    """
    try:
        return work() or 0
    except ToolError as error:
        text, code = str(error), error.code
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:  # a library's own, about what a file holds
            text, code = str(error), EXIT_DATA
        else:
            text, code = f"{error.filename or 'output'}: {error.strerror}", EXIT_NO_SPACE if error.errno == errno.ENOSPC else EXIT_IO
    except KeyboardInterrupt:
        text, code = "interrupted", 130
    except Exception as error:
        if os.environ.get("NMOE_TRACEBACK"):
            raise
        text = f"an input is not as expected ({type(error).__name__}: {error}; NMOE_TRACEBACK=1 shows where)"
        code = EXIT_DATA
    print(f"{tool}: {plain(text)}", file=sys.stderr)
    return code
