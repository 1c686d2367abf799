"""The ``codec`` command: parse, call the library, print.

Modules here import the library absolutely and each other relatively, as a wheel holds this folder as
``codec._cli``. None of them loads torch, numpy or compressai before a command needs it: ``codec --help`` and
``codec info`` answer at once.
"""
