"""The code behind the scripts. Eight files hold the method and what every script needs; the rest lies in rooms, each described in its
`__init__.py`. Importing a file sets nothing."""

__version__ = '0.2.0'
