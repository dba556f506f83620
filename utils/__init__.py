"""Shared code of the scripts. Eight modules hold the method and the basics. The subpackages are described in their `__init__.py`.

Importing a module changes no global state.
"""

__version__ = '0.2.0'
