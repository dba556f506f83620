"""The report: runs to one HTML page that needs no network.

`runs` finds the files of a run, `settings` puts its configuration into words, `build` assembles the page, and `html` fills in the
templates. Modules here may import from every other room of `utils`; nothing in `utils` imports from here. To add a section, write a
function that returns a list of `Markup`, made by `html.table`, `html.figure` or a new template in `templates/`. Then list it with its
anchor and title in `build.run_sections` or `comparison.comparison_sections`. Templates escape all text that is not `Markup`.
"""
