"""One run over many machines: a head deals cases to nodes, and writes what they answer down.

A node has the workers of any other run; the head has the journal. Ray is between them, in one file.
"""
