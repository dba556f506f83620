"""Runs and their figures to one HTML page that needs no network.

`runs` finds the files of a run, `build` puts the page together, `html` fills in the templates. Modules here import from every other room
of `utils`; nothing in `utils` imports from here. To add a part of the page: write a function that returns a list of `Markup`, from
`html.table`, `html.figure` or a template of its own in `templates/`, and name it with its anchor and title in `build.run_sections` or
`comparison.comparison_sections`. Templates escape all text that is not `Markup`.
"""
