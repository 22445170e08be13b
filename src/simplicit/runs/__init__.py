"""What the commands do, without the command line: every function here can be called from a script or a notebook.

``run`` writes run folders and manifests; ``mlp`` and ``baseline`` train and keep a network; ``weights`` and ``network``
open the user's own; ``settings`` and ``task`` say what is fitted on what; ``fitting``, ``evaluate`` and ``demo`` do it.
"""
