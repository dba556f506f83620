"""Flags of a command line that have no effect among the others given there: a warning for each.

A script lists them in a table with the rows (flag, reason, condition): the flag has no effect where condition(args) is true. The reason
may hold values, as in 'with --optimizer {optimizer}'; `given` holds the flags of the command line.
Defaults and the flags of a --recipe are no reason for a warning.
"""
import argparse

_ABSENT = object()


def flags_given(parser, argv, args):
    """{name: value} of the flags that the command line `argv` holds, from which `parser` made `args`. None stands for sys.argv."""
    absent = argparse.Namespace(**dict.fromkeys(vars(args), _ABSENT))  # a default is filled in only where there is no value
    values = vars(parser.parse_known_args(argv, absent)[0])
    return {name: value for name, value in values.items() if value is not _ABSENT}


def without_effect(given, args, table):
    """-> one line for each flag of `given` (`flags_given`) that meets a condition of `table`; the first row that it meets counts."""
    lines, args = {}, argparse.Namespace(**vars(args), given=given)
    for flag, reason, condition in table:
        if flag in given and flag not in lines and condition(args):
            value = given[flag]
            values = [] if value is True else value if isinstance(value, list) else [value]
            shown = ''.join(f' {v:g}' if isinstance(v, float) else f' {v}' for v in values)
            lines[flag] = f'--{flag}{shown} has no effect {reason.format(**vars(args))}'
    return list(lines.values())


def warn(parser, argv, args, table, **facts):
    """Print a warning for each line of `without_effect`. `facts`: what conditions and reasons need beside `args`."""
    known = argparse.Namespace(**vars(args) | facts)
    for line in without_effect(flags_given(parser, argv, args), known, table):
        print(f'* Warning: {line}')
