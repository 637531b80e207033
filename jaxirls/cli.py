"""The command line: ``jaxirls study SCENARIO``. Argument parsing only."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxirls.engine.batch import FOLD_LOOPS, folds_loops
from jaxirls.study import Scenario, ScenarioError, check, run
from jaxirls.study.progress import progress_bar

__all__ = ["main"]

INTERRUPTED = 130
OVERRIDES = ("replicates", "seed", "chunk", "dtype")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: arguments; None takes the process's.

    Returns:
      The exit code: 0, 2 for an argument or scenario that cannot be run, 130 when interrupted.
    """
    if argv is None and not folds_loops():  # the process is this command's own, and XLA has not read its flags yet
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FOLD_LOOPS}".strip()
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    try:
        code = _study(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads the table has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ScenarioError, OSError) as error:
        print(f"{parser.prog} study: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxirls", description="Generalized linear models by IRLS in JAX, in batches."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    study = commands.add_parser(
        "study",
        help="run a simulation study",
        description="Draw the datasets of a scenario, fit them all, and print bias, standard errors, coverage and the "
        "rates of convergence and separation, each with its Monte Carlo standard error.",
    )
    study.add_argument("scenario", type=Path, help="the scenario, a TOML file (see examples/separation.toml)")
    study.add_argument("--replicates", type=int, metavar="N", help="datasets to draw, instead of the file's")
    study.add_argument("--seed", type=int, metavar="N", help="seed, instead of the file's")
    study.add_argument("--chunk", type=int, metavar="N", help="replicates a compiled call; changes no result")
    study.add_argument("--dtype", choices=("float32", "float64"), help="precision, instead of the file's")
    study.add_argument("--out", type=Path, metavar="DIR", help="write measures.csv and study.json there")
    study.add_argument(
        "--check", action="store_true", help="check a sample of the fits by autodiff, and print the worst"
    )
    study.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, help="show a progress bar (default: on a terminal)"
    )
    return parser


def _study(arguments: argparse.Namespace) -> int:
    scenario = Scenario.from_toml(arguments.scenario)
    given = {name: getattr(arguments, name) for name in OVERRIDES if getattr(arguments, name) is not None}
    try:
        scenario = dataclasses.replace(scenario, **given)
    except ScenarioError as error:
        raise ScenarioError(f"--{error}") from None
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    with progress_bar(scenario.replicates, arguments.progress) as progress:
        result = run(scenario, progress=progress)
    print(result.table())
    if arguments.check:
        print(check(scenario).line())
    if arguments.out is not None:
        print("written: " + ", ".join(map(str, result.write(arguments.out))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
