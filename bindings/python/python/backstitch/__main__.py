"""The command line."""

import sys

from backstitch._backstitch import run_command_line


def main() -> None:
    sys.exit(run_command_line(["backstitch", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
