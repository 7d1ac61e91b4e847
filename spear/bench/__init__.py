"""Speed benchmarks, one module each, run by `spear bench NAME`.

A benchmark is a module here with a docstring whose first sentence says what it measures, a config dataclass and
`main(argv)`; its file name is its NAME, and nothing has to be registered. Files that begin with an underscore are
helpers. Numbers are reported with `_report.environment()`: command, commit, hardware, threads and load.
"""
