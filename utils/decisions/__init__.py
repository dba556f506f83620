"""From probabilities to decisions: class frequencies of another population, prediction sets, thresholds, abstention, costs.

All of it works on arrays of probabilities, without a network. Rules are fitted on validation predictions and applied to others:
`rules` combines them, `decision_file` saves them with a run, `scores` measures them on labelled predictions. To add a rule, write a module
with a named tuple and functions that fit and apply it, then add a field to `Rules` and its figures to `scores`.
"""
