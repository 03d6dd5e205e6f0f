"""`python -m mlxtune`: the command line, for machines whose scripts folder is not on PATH."""

from mlxtune.cli import main

main()
