"""``python -m codec``, and what the installed ``codec`` script runs.

The command line stands beside this package as ``cli/`` in a checkout and inside it as ``codec._cli`` in a
wheel or an editable installation; whichever there is, is used.
"""


def main() -> None:
    """Run the command line and leave with its exit status."""
    try:
        from codec._cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name != "codec._cli":
            raise
        from cli.main import main as run
    run()


if __name__ == "__main__":
    main()
