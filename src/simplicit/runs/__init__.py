"""What the commands do, without the command line: every function here can be called from a script or a notebook.

A run is settings (dataclasses, laid flat by ``options``), something that computes, and a folder written as a whole.
"""
